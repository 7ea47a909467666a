"""What a change of configuration means: each field that differs, in words, and what it does to callers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple, TypeVar

from ostiary.core.config import words
from ostiary.core.config.caller_difference import (
    certificate_parts,
    certificates_meaning,
    issuer_meaning,
    issuer_parts,
    issuer_summary,
)
from ostiary.core.config.edge_difference import Part, Parts, addresses_meaning, edge_meaning, edge_parts
from ostiary.core.config.redis import place_words
from ostiary.core.config.usage_sink import sink_words
from ostiary.core.model import (
    Certificate,
    ClientCertificate,
    Configuration,
    Environment,
    Key,
    LimitMode,
    Plan,
    Priority,
    Route,
    Scheme,
)
from ostiary.core.overrides import override_document
from ostiary.core.routing import RouteEntry, RouteTable, compile_routes, sample_requests
from ostiary.core.upstream import Balance, Upstream
from ostiary.core.usage import AddressRecording

T = TypeVar("T")


class ChangeKind(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Change(NamedTuple):
    """One difference. `subject` is what changed (`route clients`), `field` which part of it; `meaning` is what callers or
    the operator notice, where that does not follow from the field alone."""

    kind: ChangeKind
    subject: str
    field: str | None
    before: str | None
    after: str | None
    meaning: str | None

    def __str__(self) -> str:
        if self.field is None:
            line = f"{self.kind} {self.subject}: {self.after or self.before}"
        else:
            line = f"changed {self.subject}: {self.field}: {self.before} -> {self.after}"
        return f"{line}\n    {self.meaning}" if self.meaning else line


def compare(before: Configuration, after: Configuration) -> tuple[Change, ...]:
    """Every difference; empty if the two do the same. Secrets are compared, never shown."""
    return (
        *_settings(before, after),
        *_named("plan", before.plans, after.plans, _plan, words.plan, _plan_meaning),
        *_named("upstream", before.upstreams, after.upstreams, _upstream, _targets, _upstream_meaning),
        *_routes(before, after),
        *_named("issuer", before.issuers, after.issuers, issuer_parts, issuer_summary, issuer_meaning),
        *_named("key", before.keys, after.keys, _key, _key_summary, _key_meaning),
    )


def _named(
    what: str,
    before: Mapping[str, T],
    after: Mapping[str, T],
    parts: Callable[[T], Parts],
    summary: Callable[[T], str],
    meaning: Callable[[str, T | None, T | None], str | None],
) -> Iterator[Change]:
    """`meaning` is asked with the field's name and both values; with "" for something added or removed."""
    for name in sorted(before.keys() | after.keys()):
        old, new, subject = before.get(name), after.get(name), f"{what} {name}"
        if new is None:
            assert old is not None  # noqa: S101  it is in one of the two
            yield Change(ChangeKind.REMOVED, subject, None, summary(old), None, meaning("", old, None))
        elif old is None:
            yield Change(ChangeKind.ADDED, subject, None, None, summary(new), meaning("", None, new))
        else:
            changed = _changed(subject, parts(old), parts(new))
            for change in changed:
                yield change._replace(meaning=meaning(change.field or "", old, new))


def _changed(subject: str, old: Parts, new: Parts) -> Iterator[Change]:
    for field, part in old.items():
        if part.value != new[field].value:
            yield Change(ChangeKind.CHANGED, subject, field, part.text, new[field].text, None)


# --- settings ---------------------------------------------------------------------------------------------------------

_RESTART = "takes effect at a restart, not at a reload"
_AT_RESTART = (
    *("gateway.listen", "gateway.listen.workers", "gateway.admin", "gateway.key_stale_for"),
    *("usage.spool.when_full", "usage.spool.sync", "usage.sink"),
)


def _settings(before: Configuration, after: Configuration) -> Iterator[Change]:
    for change in _changed("settings", _setting_parts(before), _setting_parts(after)):
        field = change.field or ""
        meaning = _RESTART if _takes_a_restart(field, before, after) else _setting_meaning(field, after)
        if field == "gateway.ip":
            meaning = addresses_meaning(before.gateway.addresses, after.gateway.addresses)
        if field == "certificates":
            meaning = certificates_meaning(before.certificates, after.certificates)
        yield change._replace(meaning=meaning)


def _takes_a_restart(field: str, before: Configuration, after: Configuration) -> bool:
    if field.startswith(("control_plane.listen.tls", "control_plane.privileged.")):
        return bool(before.control_plane.listen.tls) != bool(after.control_plane.listen.tls)
    return field in _AT_RESTART or field.startswith(("control_plane.", "stores."))


def _setting_meaning(field: str, after: Configuration) -> str | None:
    if field.startswith("usage.retention."):
        return "what is older is dropped within the hour, once the control plane has been restarted"
    if field == "usage.record.ip" and after.usage.recording.address is AddressRecording.FULL:
        return "the addresses of clients are kept from now on"
    if field == "control_plane.privileged.client_certificate":
        if after.control_plane.privileged_certificate is ClientCertificate.REQUIRED:
            return "privileged calls without a client certificate are refused"
        return "OPEN: a token alone is enough for privileged calls"
    listener, _, part = field.partition(".listen.")
    tls = after.control_plane.listen.tls if listener == "control_plane" else after.gateway.listen.tls
    if part == "tls":
        return "holds for new connections" if tls else "new connections are not encrypted any more"
    if part == "tls.client_ca" and tls:
        clients = tls[0].clients
        if clients is None:
            return "OPEN: clients need no certificate from now on"
        if clients.presence is ClientCertificate.REQUIRED:
            return "new connections without a certificate of these authorities are refused"
    return None


def _setting_parts(configuration: Configuration) -> Parts:
    gateway, control, stores = configuration.gateway, configuration.control_plane, configuration.stores
    limits, recording, retention = gateway.client_limits, configuration.usage.recording, configuration.usage.retention
    spool = configuration.usage.spool
    listen = {"gateway.listen": gateway.listen, "gateway.admin": gateway.admin, "control_plane.listen": control.listen}
    return {
        **{name: Part((at.host, at.port), f"{at.host}:{at.port}") for name, at in listen.items()},
        "gateway.listen.workers": Part(gateway.listen.workers, str(gateway.listen.workers)),
        **_tls("gateway.listen.tls", gateway.listen.tls),
        "gateway.trusted_proxies": Part(
            gateway.trusted_proxies, words.listed(str(network) for network in gateway.trusted_proxies)
        ),
        "gateway.drain": _duration(gateway.drain_seconds),
        "gateway.signature_skew": _duration(gateway.signature_skew_seconds),
        "gateway.key_stale_for": _duration(gateway.key_stale_seconds),
        "gateway.failed_attempts": Part(gateway.failed_attempts, words.failed_attempts(gateway.failed_attempts)),
        "gateway.problem_pages": Part(gateway.problem_pages, gateway.problem_pages),
        "gateway.ip": Part(gateway.addresses, words.address_lists(gateway.addresses)),
        "gateway.security_headers": Part(gateway.security, words.security(gateway.security)),
        "gateway.limits.request_line": _size(limits.request_line_bytes),
        "gateway.limits.head": _size(limits.head_bytes),
        "gateway.limits.headers": Part(limits.headers, str(limits.headers)),
        "gateway.limits.head_timeout": _duration(limits.head_seconds),
        "gateway.limits.body_timeout": _duration(limits.body_idle_seconds),
        "gateway.limits.keepalive": _duration(limits.keepalive_seconds),
        "gateway.limits.write_timeout": _duration(limits.write_idle_seconds),
        "gateway.limits.connections": Part(limits.connections, str(limits.connections)),
        "gateway.limits.connections_per_address": Part(
            limits.connections_per_address, str(limits.connections_per_address)
        ),
        "gateway.limits.memory": Part(
            limits.memory_bytes,
            "what the system allows" if limits.memory_bytes is None else words.size(limits.memory_bytes),
        ),
        "gateway.limits.held_bodies": _size(limits.held_body_bytes),
        **_tls("control_plane.listen.tls", control.listen.tls),
        "control_plane.privileged.client_certificate": Part(
            control.privileged_certificate, control.privileged_certificate
        ),
        "control_plane.operator_token": _secret(control.operator_token),
        "control_plane.public_url": Part(control.public_url, control.public_url or "none"),
        "control_plane.issuer": Part(control.issuer, "none" if control.issuer is None else control.issuer.issuer.url),
        "control_plane.key_prefix": Part(control.key_prefix, control.key_prefix or "none"),
        "stores.redis": Part(stores.redis, place_words(stores.redis)),
        "stores.redis_deadline": _duration(stores.redis_deadline_seconds),
        "stores.postgres": Part(stores.postgres, words.store_url(stores.postgres)),
        "stores.spool": Part(stores.spool, stores.spool),
        "stores.spool_max": _size(stores.spool_bytes_max),
        "stores.key_encryption_keys": Part(stores.key_encryption, words.key_encryption(stores.key_encryption)),
        "stores.state": Part(stores.state, stores.state or "none"),
        **certificate_parts(configuration.certificates),
        "usage.record.ip": Part(recording.address, recording.address),
        "usage.record.user_agent": Part(recording.agent, recording.agent),
        "usage.country_database": Part(recording.country_database, recording.country_database or "none"),
        "usage.retention.events": _days_kept(retention.events_days),
        "usage.retention.minutes": _days_kept(retention.minutes_days),
        "usage.retention.hours": _days_kept(retention.hours_days),
        "usage.retention.days": _days_kept(retention.days_days),
        "usage.spool.when_full": Part(spool.when_full, spool.when_full),
        "usage.spool.sync": Part(
            spool.sync_seconds, "off" if spool.sync_seconds is None else words.duration(spool.sync_seconds)
        ),
        "usage.sink": Part(configuration.usage.sink, sink_words(configuration.usage.sink)),
    }


def _tls(field: str, certificates: tuple[Certificate, ...]) -> Parts:
    """Of a key, that it is another one shows in its certificate."""
    clients = certificates[0].clients if certificates else None
    return {
        field: Part(
            [(each.cert_pem, each.key_pem) for each in certificates], words.listed(map(words.certificate, certificates))
        ),
        f"{field}.client_ca": Part(clients, words.client_authorities(clients)),
    }


def _duration(seconds: float) -> Part:
    return Part(seconds, words.duration(seconds))


def _size(count: int) -> Part:
    return Part(count, words.size(count))


def _days_kept(days: int | None) -> Part:
    return Part(days, "forever" if days is None else f"{days}d")


def _secret(value: object | None) -> Part:
    return Part(value, "none" if value is None else "(a secret)")


# --- plans, upstreams, keys -------------------------------------------------------------------------------------------


def _plan(plan: Plan) -> Parts:
    return {
        "rate": Part(plan.rate, words.rate(plan.rate)),
        "limits": Part(set(plan.windows), words.listed(map(words.window, plan.windows))),
        "quotas": Part(set(plan.quotas), words.listed(map(words.quota, plan.quotas))),
        "concurrency": Part(plan.concurrency, str(plan.concurrency or "no bound")),
        "concurrency_mode": Part(plan.concurrency_mode, plan.concurrency_mode),
        "overage": Part(plan.overage, plan.overage),
        "by": Part(plan.by, plan.by),
    }


def _plan_meaning(field: str, old: Plan | None, new: Plan | None) -> str | None:
    if old is None or new is None:
        return None
    if field == "by":
        return f"what was used is counted anew, by {new.by}"
    if field not in ("rate", "limits", "quotas", "concurrency", "concurrency_mode"):
        return None
    before, after = _counts(old, field), _counts(new, field)
    if before == after:
        return None
    tighter = any(count < before.get(name, math.inf) for name, count in after.items())
    looser = any(count < after.get(name, math.inf) for name, count in before.items())
    if before == after:
        return "the same calls are let in, counted in another way"
    if tighter and looser:
        return "callers are refused sooner by one part, and later by another"
    return "callers are refused sooner" if tighter else "callers are refused later"


def _counts(plan: Plan, field: str) -> dict[str, float]:
    """What a part of the plan allows, by a name of what it counts in; what is not named, or in shadow, has no bound."""
    if field == "rate":
        if plan.rate is None or plan.rate.mode is LimitMode.SHADOW:
            return {}
        return {"burst": plan.rate.burst, "rate": plan.rate.requests / plan.rate.per_seconds}
    if field == "limits":
        in_force = [each for each in plan.windows if each.mode is LimitMode.ENFORCE]
        return {words.span(each.window_seconds): each.requests for each in in_force}
    if field == "quotas":
        return {each.period: each.requests for each in plan.quotas if each.mode is LimitMode.ENFORCE}
    return {"calls": plan.concurrency} if plan.concurrency and plan.concurrency_mode is LimitMode.ENFORCE else {}


def _targets(upstream: Upstream) -> str:
    return words.listed(words.target(target) for target in upstream.targets)


def _upstream(upstream: Upstream) -> Parts:
    timeouts, retries, health = upstream.timeouts, upstream.retries, upstream.health
    tls = upstream.targets[0].tls
    return {
        "targets": Part({replace(target, tls=None) for target in upstream.targets}, _targets(upstream)),
        "tls": Part(tls, words.target_tls(tls)),
        "balance": Part(upstream.balance, upstream.balance),
        "hash_by": Part(upstream.hash_by, words.hash_by(upstream.hash_by)),
        "timeouts.connect": _duration(timeouts.connect_seconds),
        "timeouts.first_byte": _duration(timeouts.first_byte_seconds),
        "timeouts.idle": _duration(timeouts.idle_seconds),
        "timeouts.upgrade_idle": _duration(timeouts.upgrade_idle_seconds),
        "timeouts.whole": Part(
            timeouts.whole_seconds,
            "no bound" if timeouts.whole_seconds is None else words.duration(timeouts.whole_seconds),
        ),
        "retries.attempts": Part(retries.attempts, str(retries.attempts)),
        "retries.on": Part(retries.on, words.listed(sorted(retries.on))),
        "retries.budget": Part(retries.budget_share, words.percent(retries.budget_share)),
        "ejection": Part(upstream.ejection, words.ejection(upstream.ejection)),
        "panic_threshold": Part(upstream.panic_share, words.percent(upstream.panic_share)),
        "breaker": Part(upstream.breaker, words.breaker(upstream.breaker)),
        "connections": Part(upstream.connections, words.connections(upstream.connections)),
        "health": Part(health, f"{health.path} every {words.duration(health.every_seconds)}" if health else "none"),
    }


def _upstream_meaning(field: str, old: Upstream | None, new: Upstream | None) -> str | None:
    if old is None or new is None:
        return None
    if field in ("balance", "hash_by") and Balance.CONSISTENT_HASH in (old.balance, new.balance):
        return "most callers go to another target from now on: what targets keep for their callers is cold"
    if field == "ejection" and new.ejection is None:
        return "targets whose calls fail keep their share of the calls, unless active checks take them out"
    if field == "breaker" and new.breaker is not None:
        return "callers get 503 upstream_unhealthy at once while it is open, in each worker by itself"
    return None


def _key(key: Key) -> Parts:
    return {
        "secret": Part(key.secret_sha256, "(a secret)"),
        "previous": Part(
            None if key.previous is None else (key.previous.secret_sha256, key.previous.expires_at),
            "none" if key.previous is None else f"(a secret) until {_moment(key.previous.expires_at)}",
        ),
        "environment": Part(key.environment, key.environment),
        "plan": Part(key.plan, key.plan or "none"),
        "limits": Part(key.limits, "the plan's" if key.limits is None else json.dumps(override_document(key.limits))),
        "scopes": Part(key.scopes, words.listed(sorted(key.scopes))),
        "allowed_ips": Part(
            set(key.allowed_networks), words.listed(map(str, key.allowed_networks), nothing="anywhere")
        ),
        "allowed_origins": Part(key.allowed_origins, words.listed(sorted(key.allowed_origins), nothing="any")),
        "expires_at": Part(key.expires_at, _moment(key.expires_at)),
    }


def _moment(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f} (Unix seconds)"


def _key_summary(key: Key) -> str:
    return f"{key.environment}, plan {key.plan or 'none'}, scopes {words.listed(sorted(key.scopes))}"


def _key_meaning(field: str, old: Key | None, new: Key | None) -> str | None:
    if new is None:
        return "its calls get 401 credentials_invalid from now on"
    if field == "secret":
        before = new.previous
        if before is not None and old is not None and before.secret_sha256 == old.secret_sha256:
            return f"calls with the old secret work until {_moment(before.expires_at)}"
        return "calls with the old secret get 401 from now on; with `previous` it would work for a while"
    if field == "previous" and new.previous is None:
        return "calls with the secret before get 401 from now on"
    if old is not None and field == "scopes" and (lost := sorted(old.scopes - new.scopes)):
        return f"calls that need {', '.join(lost)} get 403 scope_missing from now on"
    return None


# --- routes -----------------------------------------------------------------------------------------------------------


def _routes(before: Configuration, after: Configuration) -> Iterator[Change]:
    old, new = compile_routes(before.routes), compile_routes(after.routes)

    def meaning(field: str, was: Route | None, becomes: Route | None) -> str | None:
        if becomes is None:
            return _fate("calls that it took", was, new) if was else None
        if was is None:
            return _fate("before, these calls", becomes, old)
        if field == "match":
            return _fate("calls that it took", was, new)
        return _route_meaning(field, was, becomes)

    def by_name(configuration: Configuration) -> dict[str, Route]:
        return {route.name: route for route in configuration.routes}

    yield from _named("route", by_name(before), by_name(after), _route, _route_summary, meaning)


def _fate(calls: str, route: Route, table: RouteTable) -> str | None:
    """Who takes the calls of `route` under the routes of `table`, by an example of each host and method."""
    takers = set()
    for host, path, method in sample_requests(route):
        found = table.match(host, path, method)
        takers.add(found.route.name if isinstance(found, RouteEntry) else None)
    takers.discard(route.name)
    if not takers:
        return None
    fates = [f"go to the route {name}" for name in sorted(name for name in takers if name)]
    return f"{calls} {' or '.join(fates + (['get 404 or 405'] if None in takers else []))}"


def _route_summary(route: Route) -> str:
    methods = words.listed(sorted(route.match.methods), nothing="any method")
    hosts = words.listed(route.match.hosts, nothing="any host")
    schemes = words.listed(sorted(route.authentication.schemes))
    return f"{methods} {route.match.path} on {hosts}, {schemes}, to {words.upstreams(route.upstreams)}"


def _route(route: Route) -> Parts:
    match, authentication = route.match, route.authentication
    where = f"{words.listed(sorted(match.methods), nothing='any method')} {match.path} on "
    return {
        "match": Part(
            (match.path, set(match.hosts), match.methods), where + words.listed(match.hosts, nothing="any host")
        ),
        "upstream": Part(dict(route.upstreams), words.upstreams(route.upstreams)),
        "auth.schemes": Part(authentication.schemes, words.listed(sorted(authentication.schemes))),
        "auth.components": Part(authentication.components, words.listed(authentication.components)),
        "auth.issuers": Part(set(authentication.issuers), words.listed(sorted(authentication.issuers))),
        "auth.scopes": Part(
            (dict(authentication.scopes), dict(authentication.any_scopes)), words.scopes_by_method(authentication)
        ),
        "limits": Part(set(route.limits), words.listed(map(words.route_limit, route.limits))),
        "cost": Part(route.cost, words.cost(route.cost)),
        "on_store_failure": Part(route.on_store_failure, route.on_store_failure),
        "paths": Part(route.paths, route.paths),
        "priority": Part(route.priority, route.priority),
        "max_body": _size(route.body_bytes_max),
        "max_signed_body": _size(route.signed_body_bytes_max),
        "upgrades": Part(route.upgrades, words.listed(sorted(route.upgrades))),
        **edge_parts(route.edge),
        "max_head": Part(
            route.head_bytes_max, "the gateway's" if route.head_bytes_max is None else words.size(route.head_bytes_max)
        ),
        "gzip": Part(route.gzip, words.gzip(route.gzip)),
    }


_TURN = {Priority.LOW: "first", Priority.NORMAL: "after those of low routes", Priority.HIGH: "last"}


def _route_meaning(field: str, old: Route, new: Route) -> str | None:
    if (meaning := edge_meaning(field, old.edge, new.edge)) is not None:
        return meaning
    if field == "auth.schemes":
        if Scheme.ANONYMOUS in new.authentication.schemes:
            return "OPEN: everyone may call from now on, without a key"
        if gone := sorted(old.authentication.schemes - new.authentication.schemes - {Scheme.ANONYMOUS}):
            return f"callers that use {', '.join(gone)} get 401 from now on"
        if Scheme.ANONYMOUS in old.authentication.schemes:
            return "calls without a key get 401 from now on"
    if field == "auth.issuers" and (untrusted := set(old.authentication.issuers) - set(new.authentication.issuers)):
        return f"tokens of {words.listed(sorted(untrusted))} get 401 from now on"
    if field == "auth.components" and (more := set(new.authentication.components) - set(old.authentication.components)):
        return f"signatures that do not cover {', '.join(sorted(more))} get 401 from now on"
    if field == "auth.scopes" and not new.authentication.scopes:
        return "OPEN: any key may call from now on"
    if field == "upstream":
        lost = [
            environment for environment in Environment if environment in old.upstreams.keys() - new.upstreams.keys()
        ]
        if lost:
            return f"{lost[0]} keys get 403 environment_mismatch from now on"
    if field == "priority":
        return f"in overload its calls are refused {_TURN[new.priority]}"
    if field == "on_store_failure" and new.on_store_failure == "open":
        return "while Redis is away, nothing is limited"
    if field == "upgrades" and (lost_upgrades := sorted(old.upgrades - new.upgrades)):
        return f"calls that ask for {', '.join(lost_upgrades)} get an ordinary answer from now on"
    return None
