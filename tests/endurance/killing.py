"""Kills a worker under load, and tells whose calls that cut and when another one serves."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.endurance.callers import Call
from tests.endurance.site import client_ports, wait_until_connected
from tests.support.gateway_process import GatewayProcess, eventually, is_alive

# The kernel spreads new connections by chance. With four workers one in a hundred tries misses all sixteen.
PROBES = 16


@dataclass(frozen=True, slots=True)
class Kill:
    """`ports` are the clients of the killed worker; `gone_ns` is when its sockets were gone with it. From the kill,
    `ready_seconds` passed until /status called its successor ready, and `served_seconds` until that had answered a call."""

    ports: frozenset[int]
    killed_ns: int
    gone_ns: int
    ready_seconds: float
    served_seconds: float

    def cut(self, call: Call) -> bool:
        """Whether the kill explains that this call has no whole answer: its connection was the victim's, or was made while
        the victim's listening socket was not gone yet, where the kernel queued it and then reset it."""
        of_the_victim = call.local_port in self.ports and call.ended_ns >= self.killed_ns
        return of_the_victim or (call.first and self.killed_ns <= call.connected_ns <= self.gone_ns)


def kill_worker(gateway: GatewayProcess, number: int, *, connections: int, workers: int) -> Kill:
    """SIGKILL for the worker in place `number`, while all `connections` of the load are open and a process is in reserve:
    a single death, not a loop of them."""
    wait_for_reserve(gateway)
    ports = wait_until_connected(gateway, connections)
    before = gateway.worker_pids()
    victim = before[number]
    killed_ns = time.monotonic_ns()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: not is_alive(victim) and _threads(victim) <= 1, "the end of the victim")
    gone_ns = time.monotonic_ns()
    (successor,) = set(gateway.wait_for_workers(workers, without=victim)) - set(before)
    ready_ns = time.monotonic_ns()
    eventually(lambda: _answers(gateway.port, successor), f"an answer of {successor}")
    served_ns = time.monotonic_ns()
    return Kill(
        ports=frozenset(ports[victim]),
        killed_ns=killed_ns,
        gone_ns=gone_ns,
        ready_seconds=(ready_ns - killed_ns) / 1e9,
        served_seconds=(served_ns - killed_ns) / 1e9,
    )


def wait_for_reserve(gateway: GatewayProcess) -> None:
    """Until the spare process has imported all it needs. It ignores SIGHUP from then on, which the kernel tells."""

    def question() -> bool:
        pid = gateway.status()["spare"]["pid"]
        try:
            return pid is not None and _ignores(pid, signal.SIGHUP)
        except FileNotFoundError:
            return False

    eventually(question, "a process in reserve")


def unexplained(broken: Iterable[Call], kills: Sequence[Kill]) -> list[Call]:
    return [call for call in broken if not any(kill.cut(call) for kill in kills)]


def _threads(pid: int) -> int:
    """How many of its threads are left. They share its sockets: those are closed when the last thread has gone, which may be
    milliseconds after the first, by which a process is told to have ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _ignores(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return bool(mask >> (number - 1) & 1)


def _answers(port: int, pid: int) -> bool:
    """Calls on new connections, enough for one to come to this worker as good as surely: was it among those who answered?"""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(PROBES)
        ]
        for client in clients:
            client.sendall(b"GET /nothing-here HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        answered = {client.getsockname()[1] for client in clients if client.recv(1000).startswith(b"HTTP/1.1 404")}
        return bool(answered & client_ports(pid, port))
