"""Messages over WebSocket, of several sizes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.contestant import Contestant, Credential
from benchmarks.gateway import start_ostiary
from benchmarks.processes import OTHER_CORE, REPOSITORY, free_port
from benchmarks.rig import Rig
from benchmarks.sides import NGINX, start_nginx
from benchmarks.sweeps.loads import by_messages
from benchmarks.sweeps.sweep import AxisKind, Case, Sweep

SIZES = {"16 B": 16, "1 KiB": 1 << 10, "16 KiB": 16 << 10, "64 KiB": 64 << 10}
_SIDES = {"Ostiary": "ostiary-websocket", "nginx": "nginx-websocket"}


def _sides(rig: Rig) -> Sequence[Contestant]:
    port = free_port()
    command = [sys.executable, "-P", "-m", "benchmarks.sweeps.echo", str(port)]
    echo = rig.processes.start("echo", command, core=OTHER_CORE, environment={"PYTHONPATH": str(REPOSITORY)})
    rig.processes.wait_until_listening(echo, port)
    return (
        Contestant(
            "ostiary-websocket",
            "Ostiary",
            Credential.UNCHANGING,
            (),
            start_ostiary("ostiary-websocket.yaml", echo_port=port),
        ),
        Contestant(
            "nginx-websocket",
            "nginx",
            Credential.UNCHANGING,
            (NGINX,),
            start_nginx("nginx-websocket", echo_port=port),
        ),
    )


MESSAGES = Sweep(
    "websocket",
    "WebSocket messages of 16 bytes to 64 KiB",
    "64 connections that were upgraded before; each sends a message and, when it has come back, the next. Two messages pass "
    "the gateway for each that is counted, there and back. The load generator and the echo, in Python on the other core, set "
    "the pace: compare CPU.",
    "message",
    AxisKind.STEPS,
    _sides,
    tuple(
        Case(curve, point, side, by_messages("/messages", size))
        for point, size in SIZES.items()
        for curve, side in _SIDES.items()
    ),
    unit="message",
)
