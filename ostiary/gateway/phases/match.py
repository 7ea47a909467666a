"""match: which route takes this request? The answer fixes the one string that is authorized, signed and forwarded."""

from __future__ import annotations

from typing import Final

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import PathPolicy
from ostiary.core.request_paths import is_plain, is_readable, normalize
from ostiary.core.routing import MethodNotAllowed, NoRoute, RouteEntry
from ostiary.gateway.exchange import Answered, Exchange
from ostiary.gateway.snapshot import CompiledRoute
from ostiary.gateway.wire.upgrade import allow_upgrade

# Those that the parser reads by themselves; a route may take others.
_METHODS_OF_THE_GATEWAY: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def match(exchange: Exchange) -> None:
    """Sets `route`, `upgrade`, and `parameters` where the route has an edge. Raises INVALID_PATH, ROUTE_NOT_FOUND,
    METHOD_NOT_ALLOWED, IP_NOT_ALLOWED, or MALFORMED_REQUEST for an upgrade that is none, and Answered for `OPTIONS *`; the
    route's bounds on head and body hold from here (HEADERS_TOO_LARGE, BODY_TOO_LARGE)."""
    head, snapshot = exchange.head, exchange.snapshot
    route: RouteEntry | MethodNotAllowed | NoRoute | None = None
    if snapshot.preflights and head.method == b"OPTIONS":
        route = _match_preflight(exchange)
    if route is None:
        method = head.method.decode()
        plain = is_plain(head.path)
        route = snapshot.table.match(head.host, head.path, method) if plain else _match_other(exchange, method)
    if not isinstance(route, CompiledRoute):  # as all are that a snapshot's table finds
        raise _refusal(exchange, route)
    exchange.route = route
    if route.bounds_heads and head.size > route.head_bytes_max:
        raise GatewayError(ErrorCode.HEADERS_TOO_LARGE, "the head is larger than the route takes")
    if route.edge is not None:
        exchange.parameters = route.parameters(head.path)
        route.edge.enter(exchange)
    if route.upgrades and b"upgrade" in head.values:
        exchange.upgrade = allow_upgrade(head)
    if exchange.body is not None:
        exchange.body.limit(route.route.body_bytes_max)


def _refusal(exchange: Exchange, found: RouteEntry | MethodNotAllowed | NoRoute) -> Exception:
    """Why no route takes the request; and the answer to `OPTIONS *`, which asks the gateway itself (RFC 9110 §9.3.7)."""
    if exchange.head.target == b"*":
        return Answered(204, b"204 No Content", b"Allow: %b\r\n" % _METHODS_OF_THE_GATEWAY)
    if isinstance(found, MethodNotAllowed):
        allow = ", ".join(found.allow)
        return GatewayError(ErrorCode.METHOD_NOT_ALLOWED, "no route for the method", headers=(("Allow", allow),))
    return GatewayError(ErrorCode.ROUTE_NOT_FOUND, "no route for host and path")


def _match_preflight(exchange: Exchange) -> RouteEntry | None:
    """The twin of the route with `cors` that would take the call which a browser asks about (Fetch standard §3.3.2), or None:
    then the request is one like others, and a route that takes OPTIONS may pass it on to an upstream that knows CORS.

    Raises METHOD_NOT_ALLOWED where that would be a route with `cors`: its upstream is not to answer for the gateway."""
    head, snapshot = exchange.head, exchange.snapshot
    requested = head.values.get(b"access-control-request-method")
    if requested is None or b"origin" not in head.values:
        return None
    target, path = head.target, head.path
    method = requested.decode("latin-1")
    found = snapshot.table.match(head.host, path, method) if is_plain(path) else _match_other(exchange, method)
    if isinstance(found, RouteEntry) and (twin := snapshot.preflights.get(found.number)) is not None:
        return twin
    head.target, head.path = target, path  # as it was sent: the path policy of another route is to be asked
    itself = snapshot.table.match(head.host, path, "OPTIONS")
    if isinstance(itself, RouteEntry) and itself.number in snapshot.preflights:
        cross_origin = itself.route.edge.cross_origin
        allow = ", ".join(cross_origin.methods) if cross_origin is not None else ""
        raise GatewayError(
            ErrorCode.METHOD_NOT_ALLOWED, "no cross-origin call by the method", headers=(("Allow", allow),)
        )
    return None


def _match_other(exchange: Exchange, method: str) -> RouteEntry:
    """A path that servers read differently: a route must have asked for it, raw or normalized."""
    head = exchange.head
    table = exchange.snapshot.table
    found = table.match(head.host, head.path, method)
    if isinstance(found, RouteEntry) and found.route.paths is PathPolicy.RAW and is_readable(head.path):
        return found
    path = normalize(head.path)
    if path is not None:
        found = table.match(head.host, path, method)
        if isinstance(found, RouteEntry) and found.route.paths is PathPolicy.NORMALIZE:
            head.target = path + head.target[len(head.path) :]
            head.path = path
            return found
    raise GatewayError(ErrorCode.INVALID_PATH, "the path is not plain", closes=True)
