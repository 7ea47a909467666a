"""Proof: with three times the calls that a worker can serve, it serves nine tenths of what it can, and refuses the rest.

Runs `ostiary gateway` with one worker on a processor of its own; callers, origin and supervisor share the others. First as
many calls as it takes (the plateau), then three times that rate, whether or not it keeps up; then the same with three
priorities, of which the high one alone would fit. A call is an answer of 15 KiB, compressed: so one processor's callers can
ask for three times what the worker's can do."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.gateway_process import REPOSITORY, GatewayProcess

CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: 1}}
  admin: {{host: 127.0.0.1, port: 0}}
  limits: {{connections_per_address: 100000{limits}}}  # all callers have one address
upstreams:
  origin:
    targets: [{{url: "http://127.0.0.1:{origin}"}}]
routes:
  - {{name: high, match: {{path: /high}}, upstream: origin, gzip: true, priority: high, auth: {{schemes: [anonymous]}}}}
  - {{name: normal, match: {{path: /normal}}, upstream: origin, gzip: true, auth: {{schemes: [anonymous]}}}}
  - {{name: low, match: {{path: /low}}, upstream: origin, gzip: true, priority: low, auth: {{schemes: [anonymous]}}}}
"""
PLATEAU_CONNECTIONS = 300
HEALTH_SECONDS_MAX = 2.0
# Of the plateau's, per second of processor time of the worker: what others take from the machine is not the gateway's doing.
GOODPUT_PART_MIN = 0.9


@contextmanager
def origin() -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.quick_origin"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@contextmanager
def running(directory: Path, origin_port: int, *, limits: str = "") -> Iterator[GatewayProcess]:
    path = directory / "gateway.yaml"
    path.write_text(CONFIGURATION.format(origin=origin_port, limits=f", {limits}" if limits else ""))
    gateway = GatewayProcess(["ostiary", "gateway", "-c", str(path)])
    try:
        yield gateway.wait_ready()
    finally:
        gateway.stop()


def load(port: int, *, rate: float, seconds: float, connections: int, paths: list[str]) -> dict[str, Any]:
    settings = {"port": port, "rate": rate, "seconds": seconds, "connections": connections, "paths": paths}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.open_loop", json.dumps(settings)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(gateway: GatewayProcess, **settings: Any) -> tuple[dict[str, Any], float]:
    """A load, and the processor time that the worker used for it."""
    (worker,) = gateway.worker_pids()
    before = cpu_seconds(worker)
    result = load(gateway.port, **settings)
    return result, cpu_seconds(worker) - before


def sums(result: dict[str, Any]) -> dict[str, int]:
    names = ("begun", "served", "late", "refused", "failed")
    return {name: sum(tally[name] for tally in result["paths"].values()) for name in names}


class HealthAsker:
    """Asks /healthz and /metrics ten times a second, as a supervisor of machines and Prometheus would, only more."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.failures: list[str] = []
        self.slowest_seconds = 0.0
        self._gateway = gateway
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.wait(0.1):
            for path in ("/healthz", "/metrics"):
                start = time.monotonic()
                try:
                    status, _ = self._gateway.admin(path)
                except OSError as error:
                    self.failures.append(f"{path}: {error!r}")
                    continue
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - start)
                if status != 200:
                    self.failures.append(f"{path}: {status}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def prove_goodput(
    gateway: GatewayProcess, *, plateau: float, per_cpu_second: float, seconds: float, connections: int
) -> list[str]:
    health = HealthAsker(gateway)
    result, spent = measured(gateway, rate=3 * plateau, seconds=seconds, connections=connections, paths=["/normal"])
    health.stop()
    counts, times = sums(result), result["paths"]["/normal"]
    goodput = counts["served"] / seconds
    part = counts["served"] / spent / per_cpu_second
    print(
        f"three times that   {goodput:7.0f} a second in time ({goodput / plateau:.1%}; per processor second {part:.1%}), "
        f"worker {spent / seconds:.0%} busy, refused {counts['refused']}, "
        f"late {counts['late']}, failed {counts['failed']}, for want of a connection unmade {result['unmade']}; "
        f"p50 {times['p50'] * 1000:.0f} ms, p99 {times['p99'] * 1000:.0f} ms; "
        f"slowest health answer {health.slowest_seconds * 1000:.0f} ms"
    )
    failures = list(health.failures)
    if health.slowest_seconds > HEALTH_SECONDS_MAX:
        failures.append(f"a health answer took {health.slowest_seconds:.1f} s")
    if part < GOODPUT_PART_MIN:
        failures.append(f"goodput per processor second is {part:.1%} of the plateau's")
    if not counts["refused"]:
        failures.append("nothing was refused")
    if counts["failed"]:
        failures.append(
            f"{counts['failed']} calls got neither an answer nor 503 with Retry-After: {result['failures']}"
        )
    return failures


def prove_priorities(gateway: GatewayProcess, *, plateau: float, seconds: float, connections: int) -> list[str]:
    """Of ten calls two are high, three normal and five low; at three times the plateau the high ones are 0.6 of it."""
    paths = ["/high", "/low", "/normal", "/low", "/normal", "/high", "/low", "/normal", "/low", "/low"]
    result = load(gateway.port, rate=3 * plateau, seconds=seconds, connections=connections, paths=paths)
    parts = {}
    for path in ("/high", "/normal", "/low"):
        tally = result["paths"][path]
        parts[path] = tally["served"] / max(1, tally["begun"])
        print(f"priority {path[1:]:9} {parts[path]:7.1%} of {tally['begun']} served, refused {tally['refused']}")
    failures = [
        f"{tally['failed']} calls of {path} failed: {result['failures']}"
        for path, tally in result["paths"].items()
        if tally["failed"]
    ]
    if not parts["/high"] > parts["/normal"] > parts["/low"]:
        failures.append("the priorities were not kept")
    high = result["paths"]["/high"]
    if high["refused"] > high["begun"] / 100:
        failures.append("high calls were refused, though they alone would have fitted")
    return failures


def prove(directory: Path, *, seconds: float, connections: int, pin: bool) -> list[str]:
    processors = sorted(os.sched_getaffinity(0))
    if pin and len(processors) > 1:
        os.sched_setaffinity(0, processors[1:])
    with origin() as origin_port, running(directory, origin_port) as gateway:
        if pin and len(processors) > 1:
            (worker,) = gateway.worker_pids()
            os.sched_setaffinity(worker, processors[:1])
        result, spent = measured(
            gateway,
            rate=math.inf,
            seconds=max(2.0, seconds / 6),
            connections=PLATEAU_CONNECTIONS,
            paths=["/normal"],
        )
        plateau = sums(result)["served"] / max(2.0, seconds / 6)
        per_cpu_second = sums(result)["served"] / spent
        print(
            f"plateau            {plateau:7.0f} calls a second on {PLATEAU_CONNECTIONS} connections, "
            f"{1e6 / per_cpu_second:.0f} µs of processor time each"
        )
        failures = prove_goodput(
            gateway, plateau=plateau, per_cpu_second=per_cpu_second, seconds=seconds, connections=connections
        )
        failures += prove_priorities(gateway, plateau=plateau, seconds=seconds / 3, connections=connections)
        for line in gateway.logged("process_ended"):
            failures.append(str(line))
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of three times the plateau (default 60)")
    parser.add_argument("--connections", type=int, default=2000, help="of all callers (default 2000)")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="let the system place the processes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        failures = prove(
            Path(directory), seconds=arguments.seconds, connections=arguments.connections, pin=arguments.pin
        )
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
