"""match: which route takes this request? The answer fixes the one string that is authorized, signed and forwarded."""

from __future__ import annotations

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import PathPolicy
from ostiary.core.request_paths import is_plain, normalize
from ostiary.core.routing import MethodNotAllowed, RouteMatch
from ostiary.gateway.exchange import Exchange


def match(exchange: Exchange) -> None:
    """Sets `route`. Raises INVALID_PATH, ROUTE_NOT_FOUND or METHOD_NOT_ALLOWED; the route's bounds on head and body hold
    from here (HEADERS_TOO_LARGE, BODY_TOO_LARGE)."""
    head = exchange.head
    table = exchange.snapshot.table
    method = head.method.decode()
    path = head.path
    found = table.match(head.host, path, method) if is_plain(path) else _match_other(exchange, method)
    if not isinstance(found, RouteMatch):
        if isinstance(found, MethodNotAllowed):
            allow = ", ".join(found.allow)
            raise GatewayError(ErrorCode.METHOD_NOT_ALLOWED, "no route for the method", headers=(("Allow", allow),))
        raise GatewayError(ErrorCode.ROUTE_NOT_FOUND, "no route for host and path")
    route = exchange.snapshot.routes[found.number]
    exchange.route = route
    if (head_bytes_max := route.head_bytes_max) and head.size > head_bytes_max:
        raise GatewayError(ErrorCode.HEADERS_TOO_LARGE, "the head is larger than the route takes")
    if exchange.body is not None:
        exchange.body.limit(found.route.body_bytes_max)


def _match_other(exchange: Exchange, method: str) -> RouteMatch:
    """A path that servers read differently: a route must have asked for it, raw or normalized."""
    head = exchange.head
    table = exchange.snapshot.table
    found = table.match(head.host, head.path, method)
    if isinstance(found, RouteMatch) and found.route.paths is PathPolicy.RAW:
        return found
    path = normalize(head.path)
    if path is not None:
        found = table.match(head.host, path, method)
        if isinstance(found, RouteMatch) and found.route.paths is PathPolicy.NORMALIZE:
            head.target = path + head.target[len(head.path) :]
            head.path = path
            return found
    raise GatewayError(ErrorCode.INVALID_PATH, "the path is not plain", closes=True)
