"""Which route takes a call, and why: every route that might have, and what speaks against it; then what awaits the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ostiary.core.config import words
from ostiary.core.config.explained_caller import caller_facts
from ostiary.core.model import (
    PLAIN_COST,
    SIGNING_SCHEMES,
    Configuration,
    Environment,
    LimitBy,
    Match,
    Route,
    Scheme,
)
from ostiary.core.rewriting import Rewriting
from ostiary.core.routing import MethodNotAllowed, RouteEntry, compile_routes
from ostiary.core.upstream import Balance, Upstream

# An answer is for reading: of ten thousand routes, these are the nearest.
CANDIDATES_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route that does not take the call, and why not."""

    route: str
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """`answer` is `route`, or the code of the refusal. `facts` are what holds for the call on that route, in words."""

    answer: str
    route: str | None
    why: str
    parameters: Mapping[str, str]
    facts: Mapping[str, str]
    others: tuple[Candidate, ...]
    unfit: int  # routes whose path does not fit at all, which are not listed


class UnreadableUrl(ValueError):
    """The URL to explain can't be sent as it is written; the text says why."""


def explain(configuration: Configuration, method: str, url: str, headers: Mapping[str, str]) -> Explanation:
    """`url` is whole (`https://host/path?query`) or a path; then `Host` of `headers` is the host. `headers` in lower case.
    A credential in them is looked up among the keys of the file, never shown. Raises UnreadableUrl."""
    host, path = _target(url, headers)
    table = compile_routes(configuration.routes)
    found = table.match(host.encode("ascii"), path.encode("ascii"), method)
    others, unfit = _others(configuration, found, host, path, method)
    if isinstance(found, RouteEntry):
        route = found.route
        return Explanation(
            answer="route",
            route=route.name,
            why=_why(route.match, host, path),
            parameters={name: value.decode("ascii") for name, value in found.parameters(path.encode("ascii")).items()},
            facts=_facts(configuration, route, method, headers) | _edge_facts(configuration, found, path),
            others=others,
            unfit=unfit,
        )
    if isinstance(found, MethodNotAllowed):
        why = f"the path takes {', '.join(found.allow)}, not {method}: 405 with Allow"
        return Explanation("method_not_allowed", None, why, {}, {}, others, unfit)
    return Explanation("route_not_found", None, "no route has this host and path: 404", {}, {}, others, unfit)


def _target(url: str, headers: Mapping[str, str]) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or urlsplit("//" + headers.get("host", "")).hostname or "").lower()
    except ValueError as error:
        raise UnreadableUrl(f"the URL can't be read: {error}") from error
    path = parts.path or "/"
    if not path.startswith("/"):
        raise UnreadableUrl("the URL is neither https://host/path nor a path that begins with a slash")
    if not (path.isascii() and path.isprintable() and host.isascii()) or " " in path:
        raise UnreadableUrl("the URL has characters that are not sent as they are: percent-encode them")
    return host, path


def _why(match: Match, host: str, path: str) -> str:
    if host in match.hosts:
        by_host = f"its host is {host}"
    elif match.hosts:
        by_host = f"{', '.join(match.hosts)} covers {host}"
    else:
        by_host = "it takes any host"
    by_path = f"its path is {path}" if match.path == path else f"{match.path} covers {path}"
    by_method = f"it takes {', '.join(sorted(match.methods))}" if match.methods else "it takes any method"
    return f"{by_host}, {by_path}, {by_method}"


def _others(
    configuration: Configuration, found: object, host: str, path: str, method: str
) -> tuple[tuple[Candidate, ...], int]:
    chosen = found.route if isinstance(found, RouteEntry) else None
    candidates: list[Candidate] = []
    unfit = 0
    for route in configuration.routes:
        if route is chosen:
            continue
        reason = _against(route, chosen, host, path, method)
        if reason is None:
            unfit += 1
        elif len(candidates) < CANDIDATES_MAX:
            candidates.append(Candidate(route.name, reason))
    return tuple(candidates), unfit


def _against(route: Route, chosen: Route | None, host: str, path: str, method: str) -> str | None:
    """What speaks against `route`; None if its path does not fit at all."""
    alone = compile_routes([route])
    hosts = route.match.hosts
    # The route's own host, so that the path is judged by itself.
    named = hosts[0].replace("*", "any", 1) if hosts else ""
    if not isinstance(alone.match(named.encode("ascii"), path.encode("ascii"), method), RouteEntry | MethodNotAllowed):
        return None
    answer = alone.match(host.encode("ascii"), path.encode("ascii"), method)
    if isinstance(answer, MethodNotAllowed):
        return f"takes {', '.join(sorted(route.match.methods))}, not {method}"
    if not isinstance(answer, RouteEntry):
        return f"is for {', '.join(hosts)}, not for {host or 'a call without a host'}"
    if chosen is None:  # it fits, yet was not chosen: the table and this function would contradict each other
        raise AssertionError("a route fits alone and not among the others")
    if _host_rank(hosts, host) > _host_rank(chosen.match.hosts, host):
        return f"fits, but {chosen.name} names the host more exactly"
    if route.match.path == chosen.match.path:
        return f"fits, but {chosen.name} names the method"
    return f"fits, but the path of {chosen.name}, {chosen.match.path}, is more exact than {route.match.path}"


def _host_rank(hosts: tuple[str, ...], host: str) -> int:
    """0 for the host itself; the longer the part that a wildcard leaves open, the higher; any host comes last."""
    ranks = [
        0 if name == host else 1 + len(host) - len(name) for name in hosts if name == host or name.startswith("*.")
    ]
    return min(ranks, default=1 << 16)


# --- what awaits the caller -------------------------------------------------------------------------------------------


def _facts(configuration: Configuration, route: Route, method: str, headers: Mapping[str, str]) -> dict[str, str]:
    authentication = route.authentication
    facts = caller_facts(configuration, route, method, headers)
    facts["limits of the route"] = words.listed(map(words.route_limit, route.limits))
    if route.cost != PLAIN_COST:
        facts["cost of a call"] = words.cost(route.cost)
    if any(limit.by is not LimitBy.IP for limit in route.limits) or Scheme.ANONYMOUS not in authentication.schemes:
        facts["while Redis is away"] = route.on_store_failure
    for environment in Environment:
        if (name := route.upstreams.get(environment)) is None:
            facts[f"upstream of {environment} keys"] = "none: 403 environment_mismatch"
        else:
            upstream = configuration.upstreams[name]
            facts[f"upstream of {environment} keys"] = f"{name} ({_balance(upstream)})"
            if (tls := upstream.targets[0].tls) is not None:
                facts[f"TLS of {name}"] = words.target_tls(tls)
    facts["paths"] = route.paths
    facts["priority in overload"] = route.priority
    facts["largest body"] = words.size(route.body_bytes_max)
    if authentication.schemes & SIGNING_SCHEMES:
        facts["largest signed body"] = words.size(route.signed_body_bytes_max)
    if Scheme.HTTP_SIGNATURE in authentication.schemes:
        required = ("@method", "@target-uri or @path and @query", "content-digest if there is a body")
        facts["covered by http-signature"] = words.listed([*required, *authentication.components])
    if route.upgrades:
        facts["upgrades"] = words.listed(sorted(route.upgrades))
    head_bytes_max = configuration.gateway.client_limits.head_bytes
    facts["largest head"] = words.size(head_bytes_max if route.head_bytes_max is None else route.head_bytes_max)
    if route.gzip is not None:
        facts["gzip"] = words.gzip(route.gzip)
    return facts


def _balance(upstream: Upstream) -> str:
    """Its targets and, where there are several, how one of them is chosen."""
    targets = words.listed(words.target(target) for target in upstream.targets)
    if len(upstream.targets) == 1:
        return targets
    if upstream.balance is Balance.CONSISTENT_HASH:
        return f"{targets}; consistent_hash by {words.hash_by(upstream.hash_by)}"
    return f"{targets}; {upstream.balance}"


def _edge_facts(configuration: Configuration, found: RouteEntry, path: str) -> dict[str, str]:
    """What the route, or the gateway for all routes, says about the edge; nothing where neither says anything."""
    edge, gateway = found.route.edge, configuration.gateway
    facts = {}
    if gateway.addresses is not None:
        facts["addresses of the gateway"] = words.address_lists(gateway.addresses)
    if edge.addresses is not None:
        facts["addresses"] = words.address_lists(edge.addresses)
    if edge.cross_origin is not None:
        facts["cross-origin calls"] = words.cross_origin(edge.cross_origin)
    if edge.rewrite is not None:
        sent = Rewriting(found.route.match.path, edge.rewrite).target(
            path.encode("ascii"), path.encode("ascii"), found.parameters(path.encode("ascii"))
        )
        facts["path for the upstream"] = sent.decode("ascii")
    if edge.request_headers is not None:
        facts["request headers"] = words.header_edits(edge.request_headers)
    if edge.response_headers is not None:
        facts["response headers"] = words.header_edits(edge.response_headers)
    security = edge.security or gateway.security
    if security is not None:
        facts["security headers"] = words.security(security)
    if edge.deprecation is not None:
        facts["deprecation"] = words.deprecation(edge.deprecation)
    return facts
