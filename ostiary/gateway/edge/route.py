"""All that one route says about the edge, compiled: what each phase does with it, in the order of the phases."""

from __future__ import annotations

import time

from ostiary.core.edge import Edge, SecurityHeaders
from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.rewriting import Rewriting
from ostiary.gateway.edge.addresses import AddressFilter
from ostiary.gateway.edge.cross_origin import CrossOriginRules
from ostiary.gateway.edge.deprecation import Farewell
from ostiary.gateway.edge.header_edits import LineEdits, without
from ostiary.gateway.edge.security import SecurityLines
from ostiary.gateway.exchange import Answered, Exchange
from ostiary.gateway.wire.response_head import ResponseHead


class RouteEdge:
    """`for_preflights` is the twin of a route with `cors` that answers the preflights of its calls (see Snapshot)."""

    __slots__ = (
        "_addresses",
        "_answer_edits",
        "_cross_origin",
        "_replaced",
        "_request_edits",
        "_rewriting",
        "_security",
        "farewell",
        "for_preflights",
    )

    def __init__(
        self, edge: Edge, *, path: str, security: SecurityHeaders | None, for_preflights: bool = False
    ) -> None:
        """`path` is the path template of the route, `security` what holds if the route says nothing."""
        self.for_preflights = for_preflights
        self._addresses = None if edge.addresses is None else AddressFilter(edge.addresses)
        self._cross_origin = None if edge.cross_origin is None else CrossOriginRules(edge.cross_origin)
        self._request_edits = None if edge.request_headers is None else LineEdits(edge.request_headers)
        self._answer_edits = None if edge.response_headers is None else LineEdits(edge.response_headers)
        self._rewriting = None if edge.rewrite is None else Rewriting(path, edge.rewrite)
        self.farewell = None if edge.deprecation is None else Farewell(edge.deprecation)
        chosen = edge.security or security
        self._security = None if chosen is None else SecurityLines(chosen)
        replaced = self._answer_edits.removed if self._answer_edits is not None else frozenset[bytes]()
        self._replaced = replaced if self.farewell is None else replaced | {b"deprecation", b"sunset"}

    # --- match

    def enter(self, exchange: Exchange) -> None:
        """Raises IP_NOT_ALLOWED, or ROUTE_NOT_FOUND for a version that is over."""
        if self._addresses is not None and not self._addresses.allows(exchange.ip):
            raise GatewayError(
                ErrorCode.IP_NOT_ALLOWED,
                "address not among those of the route",
                detail="This route can't be called from this address.",
            )
        if self.farewell is not None and self.farewell.is_over(time.time()):
            raise GatewayError(
                ErrorCode.ROUTE_NOT_FOUND,
                "after the sunset of the route",
                detail="This version has ended; see the headers Sunset and Link.",
            )

    # --- prepare

    def prepare(self, exchange: Exchange) -> list[bytes]:
        """The lines of the client that go upstream, and those besides. Sets `upstream_target` where the path is rewritten.
        Raises Answered, or ORIGIN_NOT_ALLOWED, for a preflight."""
        if self.for_preflights:
            self._answer_preflight(exchange)
        head = exchange.head
        if self._rewriting is not None:
            exchange.upstream_target = self._rewriting.target(head.target, head.path, exchange.parameters)
        edits = self._request_edits
        return head.lines if edits is None else [*without(head.lines, edits.removed), *edits.added]

    def _answer_preflight(self, exchange: Exchange) -> None:
        """Fetch standard §3.3.3 asks for 403 where a page may not call, so that it is told apart from a mistake."""
        rules, origin = self._cross_origin, exchange.head.values[b"origin"]
        assert rules is not None  # noqa: S101  twins are made of routes with cors
        if not rules.allows(origin):
            raise GatewayError(
                ErrorCode.ORIGIN_NOT_ALLOWED,
                "origin not among those of the route",
                detail="Pages of this origin may not call this route.",
            )
        raise Answered(204, b"204 No Content", rules.granted)

    # --- respond and fail

    def dress(self, exchange: Exchange, answer: ResponseHead) -> None:
        """Makes the lines of an upstream's answer those that the client gets."""
        rules = self._cross_origin
        lines = without(answer.lines, self._replaced) if self._replaced else answer.lines.copy()
        if rules is not None:
            lines = [line for line in lines if line[:15].lower() != b"access-control-"]
            if rules.varies:
                add_to_vary(lines)
        if self._answer_edits is not None:
            lines.extend(self._answer_edits.added)
        if self._security is not None:
            given = {line.partition(b":")[0].lower() for line in lines}
            secure = exchange.client.secure
            lines.extend(line for name, line in self._security.lines(secure=secure) if name not in given)
        if self.farewell is not None:
            lines.extend(self.farewell.lines)
        if rules is not None:
            lines.extend(rules.lines(exchange.head.values.get(b"origin")))
        answer.lines = lines

    def own_lines(self, origin: bytes | None, *, secure: bool) -> bytes:
        """What the gateway's own answers carry: errors too, or a browser would hide them from the page that has to read
        them."""
        lines: list[bytes] = []
        if self._security is not None:
            lines.extend(line for _, line in self._security.lines(secure=secure))
        if self.farewell is not None:
            lines.extend(self.farewell.lines)
        if (rules := self._cross_origin) is not None:
            if rules.varies:
                lines.append(b"Vary: Origin")
            lines.extend(rules.lines(origin))
        return b"".join([line + b"\r\n" for line in lines])


def compile_edge(
    edge: Edge, *, path: str, security: SecurityHeaders | None, for_preflights: bool = False
) -> RouteEdge | None:
    """None for a route that says nothing, in a gateway that says nothing: its phases do no more than to ask for that."""
    if edge == Edge() and security is None:
        return None
    return RouteEdge(edge, path=path, security=security, for_preflights=for_preflights)


def add_to_vary(lines: list[bytes]) -> None:
    """Caches must keep one answer for each origin (Fetch standard §3.3.5), besides what the upstream says."""
    last = -1
    for at, line in enumerate(lines):
        name, _, value = line.partition(b":")
        if name.lower() == b"vary":
            names = {each.strip(b" \t") for each in value.lower().split(b",")}
            if b"*" in names or b"origin" in names:
                return
            last = at
    if last < 0:
        lines.append(b"Vary: Origin")
    else:
        lines[last] += b", Origin"
