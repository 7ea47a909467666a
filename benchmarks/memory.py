"""What a worker takes: at rest, for a connection that does nothing, and while bodies pass through it. Scenario `memory`.

The proofs `idle-connections` and `large-bodies` ask the same of the checkout and say how; here it is asked of the package
that is measured, compiled. At rest is a worker of the whole job, with its stores, after a first call: its resident memory
(VmRSS), all that it shares with its siblings included."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.contestant import RunningSide
from benchmarks.findings import Bar, Finding, Unit
from benchmarks.gateway import PACKAGE
from benchmarks.load import LoadFailed
from benchmarks.measure import Plan, probe, wait_for_rest
from benchmarks.rig import Role, running_rig
from benchmarks.scenarios import SCENARIOS
from benchmarks.sides import CONTESTANTS
from benchmarks.statistics import Spread
from ostiary.gateway.overload.accepting import connections_that_fit
from tests.acceptance import edge_site
from tests.acceptance.idle_connections import hold, proportional_bytes, raise_descriptor_limit
from tests.acceptance.large_bodies import FRAMES, MIB, Download, ResidentMemory, Upload, resident_bytes
from tests.support.gateway_process import GatewayProcess

# Memory does not depend on other work on the machine: more runs would show the same again.
RUNS_MAX = 3
CONNECTIONS, QUICK_CONNECTIONS = 5_000, 500
BODY_BYTES, QUICK_BODY_BYTES = 1024 * MIB, 64 * MIB
# Workers set start-up's memory aside, connect to their stores and report within this time.
SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """`body_bytes` is by how much the worker had grown at most while a body passed, by way and frame; `rest_shared_bytes` its
    share of what it shares (PSS)."""

    rest_bytes: int
    rest_shared_bytes: int
    connection_bytes: int
    body_bytes: dict[str, int]


@dataclass(frozen=True, slots=True)
class MemoryResult:
    connections: int
    body_size_bytes: int
    runs: tuple[MemoryRun, ...]

    def findings(self) -> tuple[Finding, ...]:
        mega, kilo = Unit.MEGABYTES, Unit.KILOBYTES
        size = "1 GiB" if self.body_size_bytes == BODY_BYTES else f"{self.body_size_bytes // MIB} MiB"
        return (
            Finding("9", "worker at rest", mega, Bar(60, aim=45), tuple(run.rest_bytes / 1e6 for run in self.runs)),
            Finding(
                *("9", "idle keep-alive connection, after a request", kilo, Bar(10, aim=6)),
                tuple(run.connection_bytes / 1e3 for run in self.runs),
            ),
            Finding(
                *("9", f"growth while a body of {size} passes, at most", mega, Bar(2, aim=1)),
                tuple(max(run.body_bytes.values()) / 1e6 for run in self.runs),
            ),
        )

    def text(self) -> str:
        shared = Spread.of([run.rest_shared_bytes / 1e6 for run in self.runs])
        ways = {way: Spread.of([run.body_bytes[way] / 1e6 for run in self.runs]) for way in self.runs[0].body_bytes}
        return "\n".join(
            (
                f"memory: of one worker\n{len(self.runs)} runs\n",
                *(
                    f"{found.measure}: {found.unit.show(found.spread.median)} {found.unit} ({found.verdict})"
                    for found in self.findings()
                ),
                f"at rest its share of what it shares (PSS): {shared.median:.1f} MB; {self.connections:,} connections",
                "growth by body: " + ", ".join(f"{way} {spread.median:.2f} MB" for way, spread in ways.items()),
            )
        )

    def document(self) -> dict[str, object]:
        return {
            "title": "memory of one worker",
            "connections": self.connections,
            "body_size_bytes": self.body_size_bytes,
            "runs": [asdict(run) for run in self.runs],
        }


def measure_memory(plan: Plan, say: Callable[[str], None]) -> MemoryResult:
    """Raises LoadFailed, DidNotStart, MissingWheels; whatever is raised, no process is left."""
    connections = QUICK_CONNECTIONS if plan.quick else CONNECTIONS
    # Each takes a descriptor of the client, and the worker keeps one for an upstream connection.
    connections = min(connections, connections_that_fit(raise_descriptor_limit()) - 500)
    size = QUICK_BODY_BYTES if plan.quick else BODY_BYTES
    runs = []
    for number in range(1, min(plan.runs, RUNS_MAX) + 1):
        try:
            runs.append(MemoryRun(*_at_rest(), _connection(connections), _bodies(size)))
        except AssertionError as error:
            raise LoadFailed(f"a gateway did not do what it was asked: {error}") from error
        say(f"run {number} of {min(plan.runs, RUNS_MAX)}: {runs[-1]}")
    return MemoryResult(connections, size, tuple(runs))


def _at_rest() -> tuple[int, int]:
    """Resident, and proportional."""
    scenario = SCENARIOS["whole-job"]
    subject = CONTESTANTS[scenario.subject]
    with running_rig(with_stores=True) as rig:
        side: RunningSide = subject.start(rig)
        probe(subject, side.port, scenario)
        time.sleep(SETTLE_SECONDS)
        wait_for_rest(side)
        (worker,) = side.pids()[Role.GATEWAY]
        return resident_bytes(worker), proportional_bytes(worker)


def _connection(connections: int) -> int:
    """Bytes of each, after a request on it."""
    limits = "keepalive: 1h, connections: 1000000, connections_per_address: 1000000"
    with _gateway(limits) as gateway:
        held = hold(gateway, connections, ask=True)
        if held.answered != connections + 1:
            raise LoadFailed(f"of {connections + 1} calls {held.answered} were answered")
        return held.bytes_each


def _bodies(size: int) -> dict[str, int]:
    """By way and frame. Every byte is compared with what was sent."""
    with _gateway("") as gateway:
        (worker,) = gateway.worker_pids()
        passes: dict[str, Callable[[], object]] = {}
        for frame in FRAMES:
            passes[f"answer, {frame}"] = partial(_download, gateway.port, size, frame)
            passes[f"request, {frame}"] = Upload(gateway.port, size, frame).run
        _download(gateway.port, 1, "length")  # what a first call takes is no matter of its size
        rest = resident_bytes(worker)
        grown = {}
        for name, run in passes.items():
            with ResidentMemory(worker, since_bytes=rest) as memory:
                run()
            grown[name] = max(0, memory.growth_bytes)
        return grown


def _download(port: int, size: int, frame: str) -> None:
    Download(port, size, frame).read_rest()


@contextmanager
def _gateway(limits: str) -> Iterator[GatewayProcess]:
    with (
        tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory,
        edge_site.running_gateway(Path(directory), limits=limits, package=PACKAGE) as gateway,
    ):
        yield gateway
