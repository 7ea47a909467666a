"""Holding a body back until its signature has verified."""

from __future__ import annotations

from ostiary.gateway.exchange import Exchange
from ostiary.gateway.wire.held_body import MEMORY_BYTES_MAX, Hash, HeldBody
from ostiary.gateway.wire.request_body import RequestBody


class Ending:
    """Of a body that arrives: its last `size` bytes, and all of a shorter one."""

    __slots__ = ("_size", "octets")

    def __init__(self, size: int) -> None:
        self._size = size
        self.octets = b""

    def update(self, data: bytes, /) -> None:
        size = self._size
        self.octets = data[-size:] if len(data) >= size else (self.octets + data)[-size:]


def take_at_once(exchange: Exchange, body: RequestBody) -> bytes | None:
    """The whole body, if it has come with its head, as most do; else None. Sets `body_bytes`.

    Raises GatewayError BODY_TOO_LARGE."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    body.limit(route.signed_body_bytes_max)
    whole = exchange.body_bytes = body.take_whole(MEMORY_BYTES_MAX)
    return whole


async def hold_body(exchange: Exchange, body: RequestBody, hashes: list[Hash]) -> None:
    """Takes a body that has not come at once; each of `hashes` is given it as it comes. Sets `body_bytes`, or `held_body`
    where it is too long for memory.

    Raises GatewayError: BODY_TOO_LARGE, and OVERLOADED when the disk has no room for it."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    body.limit(route.signed_body_bytes_max)
    held = exchange.held_body = HeldBody(exchange.snapshot.held_bodies, hashes, exchange.client.fail_exchange)
    body.stream_to(held)
    await held.arrived
    in_memory = held.in_memory
    if in_memory is not None:
        exchange.body_bytes = in_memory
        exchange.held_body = None
