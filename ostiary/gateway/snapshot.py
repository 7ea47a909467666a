"""The configuration compiled for the request path: everything a request would otherwise look up, parse or render.

A snapshot is immutable and swapped by one assignment; a request ends under the one it began with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ostiary.core.errors import ErrorCode
from ostiary.core.model import Configuration, Environment, Key, Network, Plan, Route, Scheme, Upstream
from ostiary.core.routing import RouteTable, compile_routes
from ostiary.gateway.keys import KnownKey
from ostiary.gateway.limits import LimitPolicy, compile_policy
from ostiary.gateway.overload.pressure import RANKS
from ostiary.gateway.telemetry.meters import RouteMeters
from ostiary.gateway.upstreams import UpstreamGroup
from ostiary.gateway.usage import caller_part, route_part


class Admission:
    """What one caller is on one route. `refused` is why it may not use it at all, whatever the method."""

    __slots__ = ("caller", "group", "identity", "key", "methods", "policy", "refused", "usage_slot")

    def __init__(
        self,
        *,
        key: Key | None,
        group: UpstreamGroup | None,
        policy: LimitPolicy,
        usage_slot: int,
    ) -> None:
        self.key = key
        self.group = group
        self.policy = policy
        self.refused = ErrorCode.ENVIRONMENT_MISMATCH if group is None else None
        self.usage_slot = usage_slot
        self.methods: dict[bytes, bool] = {}  # method -> has the scopes
        self.identity = b"" if key is None else _identity_headers(key)
        self.caller = (
            caller_part(None, None, None, None)
            if key is None
            else caller_part(key.id, key.app_id, key.organization_id, key.environment.value)
        )


def _identity_headers(key: Key) -> bytes:
    """The headers that tell the upstream who calls. All values come from the configuration or the control plane."""
    values = (
        ("Key", key.id),
        ("App", key.app_id),
        ("Organization", key.organization_id),
        ("Plan", key.plan),
        ("Scopes", " ".join(sorted(key.scopes))),
        ("Environment", key.environment.value),
    )
    lines = [f"X-Ostiary-{name}: {value}\r\n" for name, value in values if value]
    if any(not line[:-2].isascii() or not line[:-2].isprintable() for line in lines):
        raise ValueError(f"key {key.id} has an identity that can't stand in a header")
    return "".join(lines).encode()


class CompiledRoute:
    """A route, and per caller what is fixed about it."""

    def __init__(
        self,
        route: Route,
        *,
        plans: Mapping[str, Plan],
        groups: Mapping[str, UpstreamGroup],
        meters: RouteMeters,
    ) -> None:
        self.route = route
        self.name = route.name
        self.rank = RANKS[route.priority]
        self.schemes = route.authentication.schemes
        self.anonymous = Scheme.ANONYMOUS in self.schemes
        self.meters = meters
        self.usage = route_part(route.name, route.match.path)
        self.challenge = _challenge(self.schemes)
        self._plans = plans
        self._groups = {environment: groups[name] for environment, name in route.upstreams.items()}
        # A route open to everyone belongs to the live environment, or to the only one it has.
        open_group = self._groups.get(Environment.LIVE) or next(iter(self._groups.values()))
        self.everyone = Admission(
            key=None,
            group=open_group,
            policy=compile_policy(None, route),
            usage_slot=meters.usage(None, None, None),
        )

    def admission(self, known: KnownKey) -> Admission:
        """What `known` is on this route; made once per caller and snapshot."""
        prepared = known.prepared.get(self.name)
        if isinstance(prepared, Admission):
            return prepared
        key = known.key
        plan = self._plans.get(key.plan) if key.plan is not None else None
        admission = Admission(
            key=key,
            group=self._groups.get(key.environment),
            policy=compile_policy(plan, self.route),
            usage_slot=self.meters.usage(key.app_id, key.plan, key.environment.value),
        )
        known.prepared[self.name] = admission
        return admission

    def scopes_hold(self, admission: Admission, method: bytes) -> bool:
        """Whether the caller has every scope that the route wants for `method` (or for `*`)."""
        holds = admission.methods.get(method)
        if holds is None:
            wanted = self.route.authentication.scopes
            needed = wanted.get(method.decode(), wanted.get("*", frozenset()))
            holds = admission.key is None or needed <= admission.key.scopes
            if len(admission.methods) < 32:  # methods are the client's choice
                admission.methods[method] = holds
        return holds


def _challenge(schemes: frozenset[Scheme]) -> str:
    """WWW-Authenticate (RFC 9110 §11.6.1) for the schemes a route takes."""
    challenges = []
    if Scheme.BEARER in schemes:
        challenges.append('Bearer realm="ostiary"')
    if Scheme.HMAC in schemes or Scheme.HMAC_BODY in schemes:
        challenges.append('HMAC-SHA256 realm="ostiary", headers="X-API-Key X-Timestamp X-Nonce"')
    return ", ".join(challenges)


class Snapshot:
    """All of a configuration that the request path uses."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        group: Callable[[Upstream], UpstreamGroup],
        meters: Callable[[str], RouteMeters],
    ) -> None:
        self.configuration = configuration
        self.table: RouteTable = compile_routes(configuration.routes)
        self.groups = {name: group(upstream) for name, upstream in configuration.upstreams.items()}
        # In the order of the table, which names a route by its number.
        self.routes = tuple(
            CompiledRoute(route, plans=configuration.plans, groups=self.groups, meters=meters(route.name))
            for route in configuration.routes
        )
        self.trusted_proxies: tuple[Network, ...] = configuration.gateway.trusted_proxies
        self.skew_seconds = configuration.gateway.signature_skew_seconds
        self.problem_pages = configuration.gateway.problem_pages
