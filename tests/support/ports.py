"""Ports for servers that must be told one."""

from __future__ import annotations

import random
import socket
from pathlib import Path

# A cluster node has its bus 10000 above its own port: one port is picked from the lower part, the other is as safe.
BUS_ABOVE = 10_000
_FIRST = 10_000


def free_port(*, with_bus: bool = False) -> int:
    """A port of 127.0.0.1 that nothing uses; with `with_bus` so is the one BUS_ABOVE it.

    Not one of those that the kernel picks: it gives them to every socket that asks for any, of this run's other workers too,
    and now and then one would have the port before the server that is started with it. At random, because test runs beside
    this one pick from the same."""
    kernels_first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    span = kernels_first - _FIRST - BUS_ABOVE
    while True:
        port = _FIRST + random.randrange(span)
        if _is_free(port) and not (with_bus and not _is_free(port + BUS_ABOVE)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
