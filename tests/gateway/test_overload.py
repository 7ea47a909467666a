"""Too much of everything, met by a whole gateway: more calls than it can serve, more clients than descriptors, less memory
than they take."""

from __future__ import annotations

import math
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.proofs.overload import HealthAsker, cpu_seconds, load, origin, running, sums
from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.quick_origin import BODY
from tests.support.samples import samples

GET = b"GET /normal HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with origin() as origin_port, running(tmp_path, origin_port) as gateway:
        yield gateway


def whole_answer(client: socket.socket) -> bytes:
    """The next answer of the origin, to its last byte; what there is when the connection ends before."""
    answer = b""
    while not answer.endswith(BODY) and (data := client.recv(65536)):
        answer += data
    return answer


def reported(gateway: GatewayProcess) -> dict[str, Any]:
    """What the worker says of its overload."""
    found: dict[str, Any] = gateway.status()["workers"][0]["reported"].get("gateway", {}).get("overload", {})
    return found


def test_in_overload_some_are_served_the_rest_told_when_to_come_back_and_health_answers(
    gateway: GatewayProcess,
) -> None:
    """Row 115: without shedding everybody waits so long that nobody is served in time. See `scripts/prove overload`."""
    (worker,) = gateway.worker_pids()
    health = HealthAsker(gateway)
    # In one turn of the loop all of these are readable, which takes a tenth of a second and more, turn after turn. Callers
    # that get too little of the processor overload nobody: then more of them.
    for connections in (2500, 4000, 6000):
        paths = ["/low", "/normal", "/high", "/low"]
        result = load(gateway.port, rate=math.inf, seconds=4, connections=connections, paths=paths)
        if sums(result)["refused"] > sums(result)["begun"] / 20:
            break
    health.stop()
    counts, by_path = sums(result), result["paths"]
    assert counts["failed"] == 0, result["failures"]
    assert counts["refused"] > counts["begun"] / 100
    assert counts["served"] + counts["late"] > counts["begun"] / 20
    # Not of those served in time: in the first turns, before any is refused, all are equally late.
    low, normal, high = (by_path[path]["refused"] / by_path[path]["begun"] for path in ("/low", "/normal", "/high"))
    # Where far too many call, as good as all of the lower two are refused, and chance says which of these the more.
    assert low > normal - 0.02
    assert normal > high - 0.02
    assert low > high
    assert health.failures == []
    assert gateway.worker_pids() == [worker]
    assert gateway.logged("calls_shed")
    shed = samples(gateway.admin("/metrics")[1])
    assert shed["requests_shed_total", (("priority", "low"),)] > 0

    eventually(lambda: reported(gateway).get("shedding") is False, "the end of shedding")
    assert gateway.get("/low").encode() == BODY


def test_more_clients_than_descriptors_wait_and_are_all_served(gateway: GatewayProcess) -> None:
    """Row 114: at its limit of descriptors libuv closes whoever comes, and connections to upstreams fail as well."""
    (worker,) = gateway.worker_pids()
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (256, 256))
    eventually(lambda: reported(gateway).get("connections_max") == 96, "the new limit")
    before = cpu_seconds(worker)
    with ExitStack() as stack:
        clients = []
        for _ in range(300):
            # Usually six seconds, more than twenty once on a crowded machine: a segment that is lost is sent again by and by.
            client = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=70))
            client.sendall(GET)
            clients.append(client)
        # All at once and each until its answer: those inside are idle after theirs, and make room for those who wait.
        for client in clients:
            assert whole_answer(client).startswith(b"HTTP/1.1 200 OK")
        eventually(lambda: reported(gateway).get("accepting"), "accepting again")
        assert gateway.get("/normal").encode() == BODY
    assert samples(gateway.admin("/metrics")[1])["accept_pauses_total", ()] >= 1
    assert gateway.logged("accepting_paused")
    assert len(gateway.logged("accepting_paused")) <= 2
    assert cpu_seconds(worker) - before < 2  # it did not spin
    assert gateway.worker_pids() == [worker]


def test_without_an_idle_client_to_let_go_those_inside_are_served_and_no_one_else(gateway: GatewayProcess) -> None:
    """Row 114: clients that are busy keep their connections, and have upstreams to ask, while others wait outside."""
    (worker,) = gateway.worker_pids()
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (256, 256))
    eventually(lambda: reported(gateway).get("connections_max") == 96, "the new limit")
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=20)) for _ in range(200)
        ]
        for client in clients[:90]:
            client.sendall(GET)
            assert whole_answer(client).startswith(b"HTTP/1.1 200 OK")
        for client in clients[90:]:
            client.sendall(GET[:-2])  # a head that does not end: busy, in the worker's eyes
        eventually(lambda: reported(gateway).get("accepting") is False, "the pause")
        for _ in range(20):
            for client in clients[:90]:
                client.sendall(GET)
            for client in clients[:90]:
                assert whole_answer(client).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("bound", ["configured", "address space"])
def test_a_worker_refuses_calls_before_it_is_out_of_memory_and_recovers(bound: str, tmp_path: Path) -> None:
    """Row 116: the kernel's answer to a worker at its limit is SIGKILL, for all of its clients at once."""
    with ExitStack() as stack:
        limits = "head: 1MiB, head_timeout: 60s" + (", memory: 96MiB" if bound == "configured" else "")
        gateway = stack.enter_context(running(tmp_path, stack.enter_context(origin()), limits=limits))
        (worker,) = gateway.worker_pids()
        if bound == "address space":
            pages = int(Path(f"/proc/{worker}/statm").read_text().split()[0])
            limit = int(pages * resource.getpagesize() / 0.7)
            resource.prlimit(worker, resource.RLIMIT_AS, (limit, limit))
        # Heads that never end: each is almost a megabyte that the worker has to keep.
        hoarders: list[socket.socket] = []
        while not (refused := status_of_a_call(gateway) == 503) and len(hoarders) < 600:
            hoarder = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=20))
            hoarder.sendall(GET[:-2] + b"X: " + b"x" * 900_000)
            hoarders.append(hoarder)
        assert refused
        gateway.wait_for_log("memory_short")
        # By itself: at the last the hoarders get 503 as well, and what they held is given back.
        eventually(lambda: status_of_a_call(gateway) == 200, "calls being served again")
        eventually(lambda: reported(gateway).get("shedding") is False, "the end of shedding")
        assert gateway.worker_pids() == [worker]  # the one from before: it was not killed
        assert gateway.logged("process_ended") == []


def status_of_a_call(gateway: GatewayProcess) -> int:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(GET)
        return int(client.recv(100).split()[1])
