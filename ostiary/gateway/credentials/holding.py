"""Holding a body back until its signature has verified."""

from __future__ import annotations

from ostiary.gateway.exchange import Exchange
from ostiary.gateway.wire.held_body import MEMORY_BYTES_MAX, Hash, HeldBody
from ostiary.gateway.wire.request_body import RequestBody


def take_at_once(exchange: Exchange, body: RequestBody) -> bytes | None:
    """The whole body, if it has come with its head, as most do; else None. Sets `body_bytes`.

    Raises GatewayError BODY_TOO_LARGE."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    body.limit(route.signed_body_bytes_max)
    whole = exchange.body_bytes = body.take_whole(MEMORY_BYTES_MAX)
    return whole


async def hold_body(exchange: Exchange, body: RequestBody, hashes: list[Hash]) -> None:
    """Takes a body that has not come at once, hashed by each of `hashes`. Sets `body_bytes`, or `held_body` where it is too
    long for memory.

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
