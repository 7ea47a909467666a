"""What a change of what a route says about the edge means to callers."""

from __future__ import annotations

from typing import NamedTuple

from ostiary.core.config import words
from ostiary.core.edge import AddressLists, AfterSunset, CrossOrigin, Edge


class Part(NamedTuple):
    """A field's value, to compare, and its words, to show; they differ for secrets."""

    value: object
    text: str


Parts = dict[str, Part]


def edge_parts(edge: Edge) -> Parts:
    """By the names of the fields."""
    security = "as the gateway has it" if edge.security is None else words.security(edge.security)
    return {
        "cors": Part(edge.cross_origin, words.cross_origin(edge.cross_origin)),
        "ip": Part(edge.addresses, words.address_lists(edge.addresses)),
        "request_headers": Part(edge.request_headers, words.header_edits(edge.request_headers)),
        "response_headers": Part(edge.response_headers, words.header_edits(edge.response_headers)),
        "security_headers": Part(edge.security, security),
        "rewrite": Part(edge.rewrite, edge.rewrite or "none"),
        "deprecation": Part(edge.deprecation, words.deprecation(edge.deprecation)),
    }


def edge_meaning(field: str, old: Edge, new: Edge) -> str | None:
    if field == "cors":
        return _cors_meaning(old.cross_origin, new.cross_origin)
    if field == "ip":
        return addresses_meaning(old.addresses, new.addresses)
    if field in ("request_headers", "response_headers"):
        return "values are not shown; they may be secrets"
    if field == "rewrite":
        return "the upstream gets other paths from now on; what callers send and sign stays"
    ending = new.deprecation if field == "deprecation" else None
    if ending is not None and ending.sunset is not None and ending.after_sunset is AfterSunset.NOT_FOUND:
        return f"calls get 404 route_not_found from {words.day(ending.sunset)} on"
    return None


def _cors_meaning(old: CrossOrigin | None, new: CrossOrigin | None) -> str | None:
    if new is None:
        return "the upstream decides which pages may call; preflights need what the route needs"
    if new.origins == ("*",) and (old is None or old.origins != ("*",)):
        return "OPEN: pages of every origin may call from now on"
    if old is not None and (gone := [origin for origin in old.origins if origin not in new.origins]):
        return f"pages of {', '.join(gone)} are kept from calling from now on"
    return None


def addresses_meaning(old: AddressLists | None, new: AddressLists | None) -> str | None:
    if new is None:
        return "OPEN: any address may call from now on"
    if old is None or set(old.deny) < set(new.deny) or (new.allow and not set(old.allow) <= set(new.allow)):
        return "calls from other addresses get 403 ip_not_allowed from now on"
    return None
