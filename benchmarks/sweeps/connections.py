"""How many connections, how many workers, and what TLS takes."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence

from benchmarks.contestant import Contestant, Credential
from benchmarks.gateway import start_ostiary
from benchmarks.requests import plain_request
from benchmarks.rig import Rig
from benchmarks.sides import NGINX, start_nginx
from benchmarks.sweeps.certificates import write_certificate
from benchmarks.sweeps.loads import at_rate, by_new_clients, by_wrk, repeated
from benchmarks.sweeps.sweep import AxisKind, Case, Sweep

TARGET = "/v1/clients?limit=10"
PACED = 2000  # requests a second
WORKERS = (1, 2)
_KEPT = by_wrk(repeated(plain_request(TARGET)))
_SIDES = {"Ostiary": "ostiary-open", "nginx": "nginx"}
NEW_CLIENTS = 8


def connections_max(descriptors: int) -> int:
    """10 000, or what a worker takes that may have so many descriptors: half of them, but for some of its own."""
    return min(10_000, (descriptors - 200) // 2)


def _ostiary(name: str, **values: object) -> Contestant:
    return Contestant(name, "Ostiary", Credential.UNCHANGING, (), start_ostiary("ostiary-open.yaml", **values))


def _nginx(name: str, **values: object) -> Contestant:
    return Contestant(name, "nginx", Credential.UNCHANGING, (NGINX,), start_nginx("nginx", **values))


def _open_sides(rig: Rig) -> Sequence[Contestant]:
    return _ostiary("ostiary-open"), _nginx("nginx")


def _worker_sides(rig: Rig) -> Sequence[Contestant]:
    return [_ostiary(f"ostiary-{count}", workers=count) for count in WORKERS]


def _tls_sides(rig: Rig) -> Sequence[Contestant]:
    pair = write_certificate(rig.directory)
    return (
        _ostiary("ostiary-open"),
        _nginx("nginx"),
        _ostiary("ostiary-open-tls", tls=f", tls: {{cert: {pair.cert}, key: {pair.key}}}"),
        _nginx(
            "nginx-tls",
            listen="ssl",
            settings=f"ssl_certificate {pair.cert}; ssl_certificate_key {pair.key}; ssl_protocols TLSv1.2 TLSv1.3;",
        ),
    )


def _connection_cases() -> Iterator[Case]:
    """Paced, all counts have the same rate; at full speed, some thousand connections would be overload, and refused."""
    most = connections_max(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    for curve, counts in (("at full speed", (1, 10, 64)), (f"{PACED:,}/s", (64, 1000, most))):
        for count in counts:
            request = repeated(plain_request(TARGET))
            if curve == "at full speed":
                load = by_wrk(request, connections=count)
            else:
                load = at_rate(request, PACED, connections=count)
            for name, side in _SIDES.items():
                yield Case(f"{name}, {curve}", f"{count:,}", side, load, number=count)


CONNECTIONS = Sweep(
    "connections",
    "1 to 10 000 connections",
    "As the scenario `plain`: connections that send their next request when the last is answered; and 2,000 requests a "
    "second, which come at random times over all connections, as most do of which there are thousands (connecting is not "
    "measured). The most are 10 000, or as many as the limit of descriptors lets one worker have: half of it, as each call "
    "may need an upstream connection.",
    "connections",
    AxisKind.NUMBERS,
    _open_sides,
    tuple(_connection_cases()),
)
WORKER_COUNTS = Sweep(
    "workers",
    "1 and 2 workers",
    "As the scenario `plain`. The second worker is on the core of load generator and upstream, so on a machine of two cores "
    "the requests a second show what the machine does as a whole, and CPU per request what a worker more costs each call.",
    "workers",
    AxisKind.STEPS,
    _worker_sides,
    tuple(Case("Ostiary", str(count), f"ostiary-{count}", _KEPT) for count in WORKERS),
)


def _tls_cases() -> Iterator[Case]:
    kept, closing = plain_request(TARGET), plain_request(TARGET, "Connection: close\r\n")
    for point, load, tls in (
        ("kept, plain", by_wrk(repeated(kept)), False),
        ("kept, TLS", by_wrk(repeated(kept), tls=True), True),
        ("new, plain", by_wrk(repeated(closing)), False),
        ("resumed, TLS", by_wrk(repeated(closing), tls=True), True),
        ("new, TLS", by_new_clients(closing, clients=NEW_CLIENTS), True),
    ):
        for curve, side in _SIDES.items():
            yield Case(curve, point, f"{side}-tls" if tls else side, load)


TLS = Sweep(
    "tls",
    "TLS, and new connections",
    "As the scenario `plain`, over plain TCP and over TLS 1.3 (P-256), on 64 connections that are kept, or on a new one for "
    "each request. wrk comes back with the ticket of its last session, as most clients do: keys are exchanged, certificates "
    f"not (`resumed`). The clients of `new, TLS` are {NEW_CLIENTS} at a time of a load generator in Python, which sets the "
    "pace: compare CPU.",
    "connection",
    AxisKind.NAMES,
    _tls_sides,
    tuple(_tls_cases()),
)
