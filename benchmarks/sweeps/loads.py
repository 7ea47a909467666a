"""The loads of the sweeps: wrk or paced calls, with one request, requests that are good once, or many requests in turn; and
messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contestant import RunningSide
from benchmarks.handshakes import NewClients
from benchmarks.load import CONNECTIONS, handshake_load, paced_load, start_load
from benchmarks.measure import REQUESTS_PER_SECOND_MAX
from benchmarks.paced import Pace
from benchmarks.requests import RequestFile, Signing, signed_request, write_in_turn, write_repeated, write_signed
from benchmarks.rig import SMALL_ANSWER_BYTES, Rig
from benchmarks.sweeps.sweep import Load, Run

# Writes the requests of so many seconds.
Writing = Callable[[Path, float], RequestFile]


def repeated(request: bytes) -> Writing:
    return lambda path, seconds: write_repeated(path, request)


def signed(
    target: str,
    *,
    sign: Signing = signed_request,
    body: bytes | None = None,
    per_second: int = REQUESTS_PER_SECOND_MAX,
) -> Writing:
    return lambda path, seconds: write_signed(path, target, int(seconds * per_second), sign=sign, body=body)


def in_turn(requests: Sequence[bytes]) -> Writing:
    return lambda path, seconds: write_in_turn(path, requests, int(seconds * REQUESTS_PER_SECOND_MAX))


def by_wrk(write: Writing, *, connections: int = CONNECTIONS, think_ms: float = 0.0, tls: bool = False) -> Load:
    """A load by wrk; see `start_load`."""

    @contextmanager
    def load(rig: Rig, side: RunningSide, seconds: float) -> Iterator[Run]:
        requests = write(rig.directory / "sweep.requests", seconds)
        yield lambda: start_load(
            rig.processes,
            port=side.port,
            requests=requests,
            seconds=seconds,
            connections=connections,
            think_ms=think_ms,
            tls=tls,
        ).to_end()

    return load


def at_rate(write: Writing, per_second: float, *, connections: int) -> Load:
    """Calls that are due at random times, so many a second, on connections that are there before; see `paced.py`."""

    @contextmanager
    def load(rig: Rig, side: RunningSide, seconds: float) -> Iterator[Run]:
        requests = write(rig.directory / "sweep.requests", seconds)
        pace = Pace(
            port=side.port,
            connections=connections,
            seconds=seconds,
            per_second=per_second,
            requests=str(requests.path),
            request_bytes=requests.request_bytes,
            answer_bytes=SMALL_ANSWER_BYTES,
        )
        with paced_load(rig.processes, pace) as run:
            yield run

    return load


def by_tls_client(write: Writing, certificate: str) -> Load:
    """Over TLS, with the client certificate in `<certificate>.pem` of the rig; each connection sends its next request when
    the last is answered."""

    @contextmanager
    def load(rig: Rig, side: RunningSide, seconds: float) -> Iterator[Run]:
        requests = write(rig.directory / "sweep.requests", seconds)
        pace = Pace(
            port=side.port,
            connections=CONNECTIONS,
            seconds=seconds,
            requests=str(requests.path),
            request_bytes=requests.request_bytes,
            answer_bytes=SMALL_ANSWER_BYTES,
            certificate=str(rig.directory / f"{certificate}.pem"),
            key=str(rig.directory / f"{certificate}.key"),
        )
        with paced_load(rig.processes, pace) as run:
            yield run

    return load


def by_new_clients(request: bytes, *, clients: int) -> Load:
    """Over TLS, each request on a connection of its own, with a whole handshake."""

    @contextmanager
    def load(rig: Rig, side: RunningSide, seconds: float) -> Iterator[Run]:
        with handshake_load(rig.processes, NewClients(side.port, clients, seconds, request.decode())) as run:
            yield run

    return load


def by_messages(target: str, message_bytes: int, *, connections: int = CONNECTIONS) -> Load:
    """Messages over WebSocket; each connection sends the next when the last has come back."""

    @contextmanager
    def load(rig: Rig, side: RunningSide, seconds: float) -> Iterator[Run]:
        pace = Pace(side.port, connections, seconds, target=target, message_bytes=message_bytes)
        with paced_load(rig.processes, pace) as run:
            yield run

    return load
