"""The configuration compiled for the request path: everything a request would otherwise look up, parse or render.

A snapshot is immutable and swapped by one assignment; a request ends under the one it began with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ostiary.core.edge import PLAIN_EDGE
from ostiary.core.environments import crossings
from ostiary.core.errors import ErrorCode
from ostiary.core.issuers import Issuer
from ostiary.core.model import (
    PLAIN_COST,
    Authentication,
    Configuration,
    Environment,
    Key,
    LimitBy,
    LimitOverride,
    Network,
    Plan,
    Route,
    Scheme,
)
from ostiary.core.routing import RouteEntry, RouteTable
from ostiary.core.signature_base import component_text
from ostiary.core.signing import Skew
from ostiary.core.upstream import Balance, Upstream
from ostiary.gateway.affinity import Affinity
from ostiary.gateway.compression import CompiledGzip
from ostiary.gateway.edge.addresses import AddressFilter, Networks
from ostiary.gateway.edge.route import RouteEdge, compile_edge
from ostiary.gateway.keys import KnownKey
from ostiary.gateway.limits import LimitPolicy, compile_policy
from ostiary.gateway.overload.pressure import RANKS
from ostiary.gateway.peer_certificate import CertificateTable
from ostiary.gateway.telemetry.meters import RouteMeters
from ostiary.gateway.telemetry.metrics import Counter, Histogram
from ostiary.gateway.tokens import TokenRing
from ostiary.gateway.upstreams import UpstreamGroup
from ostiary.gateway.usage import caller_part, route_part
from ostiary.gateway.wire.gzip_stream import GzipStreams
from ostiary.gateway.wire.held_body import HeldBodies

# Of one route, by plan and override; one takes some 3 KB. A route with more different overrides than this compiles one anew
# now and then, in 50 µs.
_POLICIES_MAX = 1024

# Of one caller on one route, remembered with what it may do: methods are the client's choice.
_METHODS_MAX = 32


class Admission:
    """What one caller is on one route. `refused` is why it may not use it at all, whatever the method. What each call asks
    stands first, as in CompiledRoute."""

    __slots__ = (
        "affinity",
        "caller",
        "group",
        "identity",
        "key",
        "last_method_held",
        "limit_names",
        "methods",
        "networks",
        "policy",
        "refused",
        "unlimited",
        "usage",
    )

    def __init__(
        self,
        *,
        key: Key | None,
        group: UpstreamGroup | None,
        policy: LimitPolicy,
        usage: Counter,
        affinity: Affinity | None,
    ) -> None:
        self.unlimited = policy.empty  # here, so that the policy need not be looked at
        self.refused = ErrorCode.ENVIRONMENT_MISMATCH if group is None else None
        self.last_method_held = b""
        self.networks = Networks(key.allowed_networks) if key is not None and key.allowed_networks else None
        self.affinity = affinity  # None where the choice of a target does not go by the caller
        self.group = group
        self.usage = usage
        self.identity = b"" if key is None else _identity_headers(key)
        self.caller = (
            caller_part(None, None, None, None, None)
            if key is None
            else caller_part(key.id, key.app_id, key.organization_id, key.environment.value, key.generation)
        )
        self.policy = policy
        # The same for all calls, of any method, where they go by the key alone; else None.
        self.limit_names: list[str] | None = None
        if key is not None and policy.of_caller:
            self.limit_names = policy.names(key.id, key.app_id, key.organization_id, "")
        self.key = key
        self.methods: dict[bytes, bool] | None = None  # method -> has the scopes; most keys call by one, and have none


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


class CompiledRoute(RouteEntry):
    """A route as the table finds it, and per caller what is fixed about it."""

    # What each call asks, first and together: compiled, attributes lie in memory as they are declared, and a route that is
    # not asked for often is in no cache of the processor (docs/decisions/0042-cold-routes.md). Some only say whether what
    # stands further back is worth a look (`bounds_heads`, `compresses`).
    edge: RouteEdge | None
    bounds_heads: bool
    compresses: bool
    upgrades: bool
    anonymous: bool
    reads_authorization: bool
    takes_http_signature: bool
    takes_bearer: bool
    takes_jwt: bool
    takes_mtls: bool
    metered: bool
    wants_scopes: bool
    everyone: Admission
    _counter: Counter | None
    _durations: Histogram | None
    _last_method: bytes
    _last_status: int
    _place: object
    usage: bytes

    def __init__(
        self,
        route: Route,
        number: int,
        *,
        plans: Mapping[str, Plan],
        groups: Mapping[str, UpstreamGroup],
        meters: RouteMeters,
        edge: RouteEdge | None,
        gzip_streams: GzipStreams,
        tokens: TokenRing,
        issuers: Mapping[str, Issuer],
        open_to_all: dict[str, Admission],
        metered: bool = True,
    ) -> None:
        """`metered` is False where calls are counted, and are no usage of anyone. `open_to_all` has what stands for everyone
        on routes without limits, by upstream: it is the same on all of them."""
        super().__init__(route, number)
        self.edge = edge
        self.metered = metered
        self.name = route.name
        self.rank = RANKS[route.priority]
        self.cost_header = (route.cost.response_header or "").encode()
        # A membership in a set of an enum costs 60 ns, an attribute 5: each request asks several (phases/authenticate.py).
        schemes = route.authentication.schemes
        self.anonymous = Scheme.ANONYMOUS in schemes
        self.takes_bearer = Scheme.BEARER in schemes
        self.takes_hmac = Scheme.HMAC in schemes
        self.takes_hmac_body = Scheme.HMAC_BODY in schemes
        self.takes_http_signature = Scheme.HTTP_SIGNATURE in schemes
        self.takes_jwt = Scheme.JWT in schemes
        self.takes_mtls = Scheme.MTLS in schemes
        self.reads_authorization = self.takes_bearer or self.takes_jwt  # else the header is the upstream's
        self.wants_scopes = bool(route.authentication.scopes or route.authentication.any_scopes)
        self.tokens = tokens
        self.issuers = {issuers[name].url: issuers[name] for name in route.authentication.issuers}  # by `iss`
        self.components = frozenset(component_text(name) for name in route.authentication.components)
        self.upgrades = bool(route.upgrades)
        self.meters = meters
        self._counter = None
        self._durations = None
        self._last_method = b""
        self._last_status = 0
        self.compresses = route.gzip is not None
        self.gzip = CompiledGzip(route.gzip, gzip_streams) if route.gzip is not None else None
        self.signed_body_bytes_max = min(route.signed_body_bytes_max, route.body_bytes_max)
        self.bounds_heads = route.head_bytes_max is not None  # else by the gateway's own bound, which has held already
        self.head_bytes_max = route.head_bytes_max or 0
        self.usage = route_part(route.name, route.match.path)
        self.challenge = _challenge(schemes)
        # Where a key has what was prepared for it here. Not the name: a call that waited for its key over a reload gets a key
        # of after it, and what it prepares is of the route before. Nor the route: an idle key would keep it.
        self._place = object()
        self._plans = plans
        self._policies: dict[tuple[str | None, LimitOverride | None, Environment], LimitPolicy] = {}
        self._groups = {environment: groups[name] for environment, name in route.upstreams.items()}
        # A route open to everyone belongs to the live environment, or to the only one it has.
        open_group = self._groups.get(Environment.LIVE) or next(iter(self._groups.values()))
        everyone = Admission(
            key=None,
            group=open_group,
            policy=compile_policy(None, route),
            usage=meters.usage(None, None, None),
            affinity=_affinity(route, None, open_group),
        )
        if everyone.unlimited and everyone.affinity is None:
            everyone = open_to_all.setdefault(open_group.name, everyone)
        self.everyone = everyone

    def count(self, method: bytes, status: int, seconds: float) -> None:
        """A call in the metrics. Most are answered like the one before, and are counted without a look-up."""
        counter, durations = self._counter, self._durations
        if counter is None or durations is None or status != self._last_status or method != self._last_method:
            meter = self.meters.meter(method, status)
            counter = self._counter = meter.counter
            durations = self._durations = meter.durations
            self._last_method, self._last_status = method, status
        counter.add(1.0)
        durations.observe(seconds)

    def admission(self, known: KnownKey) -> Admission:
        """What `known` is on this route; made once per caller and snapshot."""
        prepared = known.prepared(self._place)
        if isinstance(prepared, Admission):
            return prepared
        key = known.key
        group = self._groups.get(key.environment)
        admission = Admission(
            key=key,
            group=group,
            policy=self._policy(key),
            usage=self.meters.usage(key.app_id, key.plan, key.environment.value),
            affinity=_affinity(self.route, key, group),
        )
        known.prepare(self._place, admission)
        return admission

    def _policy(self, key: Key) -> LimitPolicy:
        """What the key is held to here: keys with one plan, with one override of it and of one environment share one
        policy."""
        by = (key.plan, key.limits, key.environment)
        policy = self._policies.get(by)
        if policy is None:
            if len(self._policies) >= _POLICIES_MAX:
                self._policies.clear()  # those in use live on in the admissions; the rest are compiled again
            plan = self._plans.get(key.plan) if key.plan is not None else None
            if key.limits is not None:
                plan = key.limits.applied_to(plan)
            policy = self._policies[by] = compile_policy(plan, self.route, key.environment)
        return policy

    def scopes_hold(self, admission: Admission, method: bytes) -> bool:
        """Whether the caller has the scopes that the route wants for `method` (or for `*`)."""
        if method == admission.last_method_held:
            return True
        methods = admission.methods
        holds = None if methods is None else methods.get(method)
        if holds is None:
            key = admission.key
            holds = key is None or not self.route.authentication.lacking(key.scopes, method.decode())
            if not holds or admission.last_method_held:
                if methods is None:
                    methods = admission.methods = {}
                if len(methods) < _METHODS_MAX:
                    methods[method] = holds
        if holds:
            admission.last_method_held = method
        return holds


def _affinity(route: Route, key: Key | None, group: UpstreamGroup | None) -> Affinity | None:
    if group is None or group.upstream.balance is not Balance.CONSISTENT_HASH:
        return None
    return Affinity(group.upstream.hash_by, route, key)


def _preflight_twin(route: Route) -> Route:
    """The route that answers the preflights of `route`: open to everyone, for browsers send no key with these, and held to
    the limits by address, which a preflight shares with the call it is for."""
    return replace(
        route,
        authentication=Authentication(schemes=frozenset({Scheme.ANONYMOUS})),
        limits=tuple(limit for limit in route.limits if limit.by is LimitBy.IP),
        upgrades=frozenset(),
        cost=PLAIN_COST,
    )


def _challenge(schemes: frozenset[Scheme]) -> str:
    """WWW-Authenticate (RFC 9110 §11.6.1) for the schemes a route takes."""
    challenges = []
    if Scheme.BEARER in schemes or Scheme.JWT in schemes:
        challenges.append('Bearer realm="ostiary"')
    if Scheme.HMAC in schemes or Scheme.HMAC_BODY in schemes:
        challenges.append('HMAC-SHA256 realm="ostiary", headers="X-API-Key X-Timestamp X-Nonce"')
    if Scheme.HTTP_SIGNATURE in schemes:
        challenges.append('Signature realm="ostiary", headers="Signature-Input Signature"')
    if Scheme.MTLS in schemes:  # no scheme of HTTP asks for a certificate; a 401 must name something (RFC 9110 §15.5.2)
        challenges.append('ClientCertificate realm="ostiary"')
    return ", ".join(challenges)


class Snapshot:
    """All of a configuration that the request path uses."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        group: Callable[[Upstream], UpstreamGroup],
        meters: Callable[[str], RouteMeters],
        held_bodies: HeldBodies,
        tokens: TokenRing,
        skew: Skew,
    ) -> None:
        if crossing := next(iter(crossings(configuration.routes)), None):
            # A configuration file with this is refused; so there is no snapshot either, wherever its configuration is from.
            raise ValueError(
                f"the upstream {crossing.upstream} serves {crossing.first_role}, and {crossing.second_role}"
            )
        self.configuration = configuration
        self.held_bodies = held_bodies
        self.groups = {name: group(upstream) for name, upstream in configuration.upstreams.items()}
        gzip_streams = GzipStreams()
        open_to_all: dict[str, Admission] = {}
        self.routes = tuple(
            CompiledRoute(
                route,
                number,
                plans=configuration.plans,
                groups=self.groups,
                meters=meters(route.name),
                edge=compile_edge(route.edge, path=route.match.path, security=configuration.gateway.security),
                gzip_streams=gzip_streams,
                tokens=tokens,
                issuers=configuration.issuers,
                open_to_all=open_to_all,
            )
            for number, route in enumerate(configuration.routes)
        )
        self.table = RouteTable(self.routes)
        # By the numbers of routes with `cors`.
        self.preflights = {
            number: CompiledRoute(
                _preflight_twin(route),
                number,
                plans={},
                groups=self.groups,
                meters=meters(route.name),
                edge=compile_edge(
                    route.edge,
                    path=route.match.path,
                    security=configuration.gateway.security,
                    for_preflights=True,
                ),
                gzip_streams=gzip_streams,
                tokens=tokens,
                issuers=configuration.issuers,
                open_to_all=open_to_all,
                metered=False,
            )
            for number, route in enumerate(configuration.routes)
            if route.edge.cross_origin is not None
        }
        tls = configuration.gateway.listen.tls
        clients = tls[0].clients if tls else None
        self.certificates = CertificateTable(
            configuration.certificates, frozenset() if clients is None else clients.revoked
        )
        lists = configuration.gateway.addresses
        self.addresses = None if lists is None else AddressFilter(lists)
        # For answers before, or without, a route.
        self.edge = compile_edge(PLAIN_EDGE, path="/", security=configuration.gateway.security)
        self.trusted_proxies: tuple[Network, ...] = configuration.gateway.trusted_proxies
        self.skew = skew
        self.problem_pages = configuration.gateway.problem_pages
