"""The load generator: wrk, one thread, 64 connections, ready-made requests."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import OTHER_CORE, Processes
from benchmarks.requests import RequestFile

CONNECTIONS = 64
_SCRIPT = Path(__file__).with_name("load.lua")
_GRACE_SECONDS = 20.0  # beyond the duration: wrk starts within a fraction of a second and ends as soon


class LoadFailed(RuntimeError):
    """The load did not run, or not every request was answered with success: such a run measures nothing."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What wrk saw. Latencies are microseconds at full load, so they tell of queueing more than of the proxy."""

    requests: int
    seconds: float
    latency_p50_us: int
    latency_p99_us: int

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds


def run_load(processes: Processes, *, port: int, requests: RequestFile, seconds: float) -> LoadResult:
    """Sends requests to 127.0.0.1 for so many seconds (rounded up to whole ones, wrk knows no others).

    Raises LoadFailed when the generator fails, a connection breaks or an answer is no success."""
    whole_seconds = max(1, round(seconds))
    command = [
        *("wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{whole_seconds}s"),
        *("--timeout", "10s", "--script", str(_SCRIPT), f"http://127.0.0.1:{port}/", "--"),
        *("unchanging" if requests.count == 1 else "stream", str(requests.path), str(requests.request_bytes)),
    ]
    wrk = processes.start("wrk", command, core=OTHER_CORE)
    try:
        wrk.popen.wait(whole_seconds + _GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"wrk did not end {_GRACE_SECONDS:.0f} s after its time") from None
    finally:
        processes.stop(wrk)
    return read_result(wrk.log.read_text(), requests)


def read_result(output: str, requests: RequestFile) -> LoadResult:
    """What `load.lua` reported. Raises LoadFailed as `run_load` does."""
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise LoadFailed(f"wrk reported no result:\n{output.strip()}")
    result = json.loads(lines[-1].removeprefix("RESULT "))
    served, refused, broken = result["requests"], result["refused"], result["broken"]
    if requests.count > 1 and served >= requests.count - CONNECTIONS:
        raise LoadFailed(
            f"all {requests.count} signed requests were sent before the time was over; "
            "raise REQUESTS_PER_SECOND_MAX in benchmarks/measure.py"
        )
    if refused or broken or not served:
        raise LoadFailed(f"of {served} requests {refused} were refused and {broken} broke off: nothing to measure")
    return LoadResult(served, result["seconds"], result["latency_p50_us"], result["latency_p99_us"])
