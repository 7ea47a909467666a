"""The load generators: wrk, one thread, 64 connections unless said otherwise, ready-made requests; and `paced.py`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.handshakes import NewClients
from benchmarks.paced import Pace
from benchmarks.processes import OTHER_CORE, REPOSITORY, Processes, Started
from benchmarks.requests import RequestFile

CONNECTIONS = 64
_SCRIPT = Path(__file__).with_name("load.lua")
_GRACE_SECONDS = 20.0  # beyond the duration: wrk starts within a fraction of a second and ends as soon


_SAID_MAX = 400  # characters of what a generator printed that a message has


class LoadFailed(RuntimeError):
    """The load did not run, or not every request was answered with success: such a run measures nothing."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the load generator saw. Latencies are microseconds; at full load they tell of queueing more than of the proxy."""

    requests: int
    seconds: float
    latency_p50_us: int
    latency_p99_us: int

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds


class RunningLoad:
    """wrk under way. It can be paused: it sends nothing then, and its connections wait. Its own clock goes on."""

    def __init__(self, wrk: Started, processes: Processes, seconds: float, sent_max: int | None) -> None:
        self._wrk = wrk
        self._processes = processes
        self._deadline = time.monotonic() + seconds + _GRACE_SECONDS
        self._sent_max = sent_max

    def pause(self) -> None:
        self._wrk.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._wrk.popen.send_signal(signal.SIGCONT)

    def result(self) -> LoadResult:
        """Waits for its end. Raises LoadFailed when the generator fails, a connection breaks or an answer is no success."""
        try:
            self._wrk.popen.wait(self._deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"wrk did not end {_GRACE_SECONDS:.0f} s after its time") from None
        return read_result(self._wrk.log.read_text(), sent_max=self._sent_max)

    def to_end(self) -> LoadResult:
        """`result`, with nothing of it left afterwards."""
        try:
            return self.result()
        finally:
            self.close()

    def close(self) -> None:
        """Ends it, if it has not ended."""
        self.resume()
        self._processes.stop(self._wrk)


def start_load(
    processes: Processes,
    *,
    port: int,
    requests: RequestFile,
    seconds: float,
    connections: int = CONNECTIONS,
    think_ms: float = 0.0,
    tls: bool = False,
) -> RunningLoad:
    """Sends requests to 127.0.0.1 for so many seconds (rounded to whole ones, wrk knows no others). With `think_ms` each
    connection waits about so long, at random, before each of its requests."""
    whole_seconds = max(1, round(seconds))
    command = [
        *("wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{whole_seconds}s"),
        *("--timeout", "10s", "--script", str(_SCRIPT), f"{'https' if tls else 'http'}://127.0.0.1:{port}/", "--"),
        *("unchanging" if requests.count == 1 else "stream", str(requests.path), str(requests.request_bytes)),
        *([f"{think_ms:.3f}"] if think_ms else []),
    ]
    wrk = processes.start("wrk", command, core=OTHER_CORE)
    return RunningLoad(wrk, processes, whole_seconds, requests.count - connections if requests.count > 1 else None)


def paced_load(processes: Processes, pace: Pace) -> AbstractContextManager[Callable[[], LoadResult]]:
    """The load of `paced.py`, connected and ready; what is given runs it. Raises LoadFailed, as what is given does."""
    return _generated_load(processes, "paced", pace, pace.seconds)


def handshake_load(processes: Processes, clients: NewClients) -> AbstractContextManager[Callable[[], LoadResult]]:
    """The load of `handshakes.py`, likewise."""
    return _generated_load(processes, "handshakes", clients, clients.seconds)


@contextmanager
def _generated_load(
    processes: Processes, name: str, wanted: Pace | NewClients, seconds: float
) -> Iterator[Callable[[], LoadResult]]:
    """By a generator of the bench's own, which speaks as `generating.py` says."""
    command = [sys.executable, "-P", "-m", f"benchmarks.{name}", json.dumps(asdict(wanted))]
    generator = processes.start(name, command, core=OTHER_CORE, environment={"PYTHONPATH": str(REPOSITORY)})

    def wait_for(word: str, patience_seconds: float) -> str:
        deadline = time.monotonic() + patience_seconds
        while f"\n{word}" not in (said := "\n" + generator.log.read_text()) or not said.endswith("\n"):
            if generator.popen.poll() is not None or time.monotonic() > deadline:
                raise LoadFailed(f"the load generator did not come to {word}:\n{generator.log_tail()}")
            time.sleep(0.01)
        return said

    def run() -> LoadResult:
        generator.popen.send_signal(signal.SIGUSR1)
        return read_result(wait_for("RESULT", seconds + _GRACE_SECONDS))

    try:
        wait_for("READY", _GRACE_SECONDS)
        yield run
    finally:
        processes.stop(generator)


def read_result(output: str, *, sent_max: int | None = None) -> LoadResult:
    """What a generator reported on a line `RESULT {…}`, as `load.lua` does; with `sent_max`, it had but so many requests to
    send. Raises LoadFailed as `RunningLoad.result` does."""
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise LoadFailed(f"the load generator reported no result:\n{output.strip()}")
    result = json.loads(lines[-1].removeprefix("RESULT "))
    served, refused, broken = result["requests"], result["refused"], result["broken"]
    if sent_max is not None and served >= sent_max:
        raise LoadFailed(
            "all requests that were made ahead were sent before the time was over; "
            "raise REQUESTS_PER_SECOND_MAX in benchmarks/measure.py"
        )
    if refused or broken or not served:
        said = " ".join(line for line in output.splitlines() if line not in ("READY", *lines))[-_SAID_MAX:]
        raise LoadFailed(
            f"of {served} requests {refused} were refused and {broken} broke off: nothing to measure. It said: {said}"
        )
    return LoadResult(served, result["seconds"], result["latency_p50_us"], result["latency_p99_us"])
