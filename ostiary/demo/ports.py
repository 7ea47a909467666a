"""Which ports a demo listens on: the ones asked for, or the well-known ones, or, if those are taken, any."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from ostiary.demo.configuration import Ports
from ostiary.demo.valkey import free_port

DEFAULTS = Ports(gateway=8080, control_plane=8081, admin=9090)
ATTEMPTS = 50


class PortTaken(RuntimeError):
    """A port that the user asked for can't be had."""


@dataclass(frozen=True, slots=True)
class RequestedPorts:
    """None: the default one, or another if it is taken."""

    gateway: int | None = None
    control_plane: int | None = None
    admin: int | None = None


def choose_ports(requested: RequestedPorts, *, defaults: Ports = DEFAULTS) -> tuple[Ports, tuple[str, ...]]:
    """Three that differ, and a line for each default that was taken. Raises PortTaken."""
    asked_for = [port for port in (requested.gateway, requested.control_plane, requested.admin) if port is not None]
    taken = set(asked_for)
    if len(taken) < len(asked_for):
        raise PortTaken("--port, --control-port and --admin-port must differ")
    notes: list[str] = []
    gateway = _choose("--port", requested.gateway, defaults.gateway, taken, notes)
    control_plane = _choose("--control-port", requested.control_plane, defaults.control_plane, taken, notes)
    admin = _choose("--admin-port", requested.admin, defaults.admin, taken, notes)
    return Ports(gateway=gateway, control_plane=control_plane, admin=admin), tuple(notes)


def _choose(option: str, requested: int | None, default: int, taken: set[int], notes: list[str]) -> int:
    """Adds what it chooses to `taken`, the others' ports."""
    if requested is not None:
        if (problem := _problem(requested)) is not None:
            raise PortTaken(f"{option} {requested}: {problem}; choose another port, or leave {option} out")
        return requested
    port = default
    problem = "it is another of the three" if default in taken else _problem(default)
    if problem is not None:
        port = _free_port_beside(taken)
        notes.append(f"port {default}: {problem}; using {port} ({option} chooses another)")
    taken.add(port)
    return port


def _free_port_beside(taken: set[int]) -> int:
    """The kernel may give one that it gave a moment ago, and that nobody uses yet. Raises PortTaken when it does so again and
    again."""
    for _ in range(ATTEMPTS):
        if (port := free_port()) not in taken:
            return port
    raise PortTaken(f"no port is free, but for {', '.join(map(str, sorted(taken)))}")


def _problem(port: int) -> str | None:
    with socket.socket() as probe:
        # As servers do it: without, the port of a demo that ended a moment ago would seem taken for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "it is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return None
