"""Which ports a demo listens on: the ones asked for, or the well-known ones, or, if those are taken, any."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from ostiary.demo.configuration import Ports
from ostiary.demo.valkey import free_port

DEFAULTS = Ports(gateway=8080, control_plane=8081, admin=9090)


class PortTaken(RuntimeError):
    """A port that the user asked for can't be had."""


@dataclass(frozen=True, slots=True)
class RequestedPorts:
    """None: the default one, or another if it is taken."""

    gateway: int | None = None
    control_plane: int | None = None
    admin: int | None = None


def choose_ports(requested: RequestedPorts, *, defaults: Ports = DEFAULTS) -> tuple[Ports, tuple[str, ...]]:
    """The ports, and a line for each default that was taken. Raises PortTaken."""
    notes: list[str] = []
    gateway = _choose("--port", requested.gateway, defaults.gateway, notes)
    control_plane = _choose("--control-port", requested.control_plane, defaults.control_plane, notes)
    admin = _choose("--admin-port", requested.admin, defaults.admin, notes)
    if len({gateway, control_plane, admin}) < 3:
        raise PortTaken("--port, --control-port and --admin-port must differ")
    return Ports(gateway=gateway, control_plane=control_plane, admin=admin), tuple(notes)


def _choose(option: str, requested: int | None, default: int, notes: list[str]) -> int:
    wanted = default if requested is None else requested
    if (problem := _problem(wanted)) is None:
        return wanted
    if requested is not None:
        raise PortTaken(f"{option} {wanted}: {problem}; choose another port, or leave {option} out")
    port = free_port()
    notes.append(f"port {wanted}: {problem}; using {port} ({option} chooses another)")
    return port


def _problem(port: int) -> str | None:
    with socket.socket() as probe:
        # As servers do it: without, the port of a demo that ended a moment ago would seem taken for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return "it is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return None
