"""Sizes of bodies, both ways."""

from __future__ import annotations

import os
from collections.abc import Sequence

from benchmarks.contestant import Contestant, Credential
from benchmarks.gateway import start_ostiary
from benchmarks.requests import plain_request
from benchmarks.rig import Rig
from benchmarks.sides import NGINX, NGINX_LARGE_BUFFERS, start_nginx
from benchmarks.sweeps.loads import by_wrk, repeated
from benchmarks.sweeps.sweep import AxisKind, Case, Sweep

SIZES = {"0": 0, "1 KiB": 1 << 10, "16 KiB": 16 << 10, "1 MiB": 1 << 20}
# A turn of the event loop that takes a MiB from each of 64 connections would be overload, and refused; of so few it is not.
_CONNECTIONS = 16
# As a team sets it that passes large bodies: buffers as in the scenario `body`, and uploads that are not put on disk first.
_NGINX_SETTINGS = f"{NGINX_LARGE_BUFFERS} proxy_request_buffering off; client_max_body_size 2m;"
_SIDES = {"Ostiary": "ostiary-open", "nginx": "nginx-bodies"}


def _sides(rig: Rig) -> Sequence[Contestant]:
    for size in SIZES.values():
        (rig.directory / "blobs" / str(size)).write_bytes(os.urandom(size))
    return (
        Contestant("ostiary-open", "Ostiary", Credential.UNCHANGING, (), start_ostiary("ostiary-open.yaml")),
        Contestant(
            "nginx-bodies",
            "nginx, 512 KiB of buffers",
            Credential.UNCHANGING,
            (NGINX,),
            start_nginx("nginx", settings=_NGINX_SETTINGS),
        ),
    )


ANSWERS = Sweep(
    "answers",
    "answers of 0 to 1 MiB",
    "GET over 16 connections on a route that is open to everyone, no limits, metrics on; the answer is a file of the "
    "upstream. nginx has 512 KiB of buffers a connection, as `nginx-large-buffers` of the scenario `body`.",
    "body of the answer",
    AxisKind.STEPS,
    _sides,
    tuple(
        Case(curve, point, side, by_wrk(repeated(plain_request(f"/blobs/{size}")), connections=_CONNECTIONS))
        for point, size in SIZES.items()
        for curve, side in _SIDES.items()
    ),
)
UPLOADS = Sweep(
    "uploads",
    "request bodies of 0 to 1 MiB",
    "POST over 16 connections on a route that is open to everyone, no limits, metrics on; the upstream reads the whole body "
    "before it answers with 121 bytes. nginx passes it on as it comes (`proxy_request_buffering off`), as Ostiary does.",
    "body of the request",
    AxisKind.STEPS,
    _sides,
    tuple(
        Case(
            curve,
            point,
            side,
            by_wrk(repeated(plain_request("/uploads/1", body=b"x" * size)), connections=_CONNECTIONS),
        )
        for point, size in SIZES.items()
        for curve, side in _SIDES.items()
    ),
)
