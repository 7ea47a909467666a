"""The model in words, as people read it in `config diff` and `config explain`. No secret is ever in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from ostiary.core.edge import AddressLists, CrossOrigin, Deprecation, Framing, HeaderEdits, SecurityHeaders
from ostiary.core.issuers import ByClaim, KeysAt, KeysInFile
from ostiary.core.model import (
    Authentication,
    Certificate,
    CertificateUse,
    ClientAuthorities,
    Concurrency,
    Cost,
    Counting,
    Environment,
    FailedAttempts,
    Gzip,
    KeyEncryption,
    LimitBy,
    LimitMode,
    Overage,
    Plan,
    Quota,
    Rate,
    RefusedCalls,
    RouteLimit,
    Window,
)
from ostiary.core.upstream import UNIX, Breaker, Connections, Ejection, HashBy, Target, TargetTls

_SPANS: Final = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"))
_SIZES: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


_LISTED_MAX: Final = 10  # of addresses: a list of thousands is for the file, not for an answer


def span(seconds: int) -> str:
    return _SPANS.get(seconds, f"{seconds} s")


def duration(seconds: float) -> str:
    """In the largest unit that gives a whole number: `90s`, `2m`, `250ms`."""
    for unit, name in _UNITS:
        if seconds and seconds % unit == 0:
            return f"{seconds / unit:.0f}{name}"
    return f"{seconds * 1000:g}ms"


def size(count: int) -> str:
    for unit, name in _SIZES:
        if count and count % unit == 0:
            return f"{count // unit}{name}"
    return f"{count}B"


def rate(value: Rate | None) -> str:
    if value is None:
        return "none"
    return f"{value.requests} per {span(value.per_seconds)}, {value.burst} at once{_terms(value)}"


def window(value: Window) -> str:
    return f"{value.requests} in any {span(value.window_seconds)}{_terms(value)}"


def quota(value: Quota) -> str:
    return f"{value.requests} per {value.period} (UTC){_terms(value)}"


def concurrency(value: Concurrency) -> str:
    return f"{value.at_most} under way at once{_in_shadow(value.mode)}"


def _terms(value: Rate | Window | Quota) -> str:
    """Nothing for what is usual."""
    text = ", leased" if value.counting is Counting.LEASED else ""
    text += ", refused calls charged" if value.refused is RefusedCalls.CHARGED else ""
    return text + _in_shadow(value.mode)


def _in_shadow(mode: LimitMode) -> str:
    return ", in shadow" if mode is LimitMode.SHADOW else ""


def route_limit(value: RouteLimit) -> str:
    match value.limit:
        case Rate():
            text = rate(value.limit)
        case Window():
            text = window(value.limit)
        case Quota():
            text = f"{quota(value.limit)}, then {value.limit.overage or Overage.BLOCK}"
        case Concurrency():
            text = concurrency(value.limit)
    return f"{text} by {value.by if value.header is None else value.header}"


def cost(value: Cost) -> str:
    parts = [str(value.default), *(f"{method} {number}" for method, number in sorted(value.methods.items()))]
    if value.response_header is not None:
        parts.append(f"then what {value.response_header} says, up to {value.at_most}")
    return ", ".join(parts)


def plan(value: Plan) -> str:
    parts = [rate(value.rate)] if value.rate else []
    parts += [window(limit) for limit in value.windows]
    parts += [f"{quota(each)}, then {value.overage}" for each in value.quotas]
    if value.concurrency:
        parts.append(concurrency(Concurrency(value.concurrency, value.concurrency_mode)))
    if parts and value.by is not LimitBy.KEY:
        parts.append(f"of all keys of an {value.by} together")
    return "; ".join(parts) or "no limits"


def target(value: Target) -> str:
    where = value.label if value.scheme == UNIX else f"{value.scheme}://{value.authority}"
    return where + (f" (weight {value.weight})" if value.weight != 1 else "")


def target_tls(value: TargetTls | None) -> str:
    """By file and content, so that a renewal under the same name shows."""
    if value is None:
        return "the system's authorities"
    parts = []
    for what, file, pem in (("ca", value.ca, value.ca_pem), ("cert", value.cert, value.cert_pem)):
        if file is not None and pem is not None:
            parts.append(f"{what} {file} ({sha256(pem).hexdigest()[:8]})")
    if value.server_name is not None:
        parts.append(f"server_name {value.server_name}")
    return listed(parts, nothing="the system's authorities")


def percent(share: float) -> str:
    return f"{share * 100:g}%"


def hash_by(value: HashBy) -> str:
    return f"{value.source} {value.name}" if value.name else str(value.source)


def ejection(value: Ejection | None) -> str:
    if value is None:
        return "off"
    span = f"{duration(value.seconds)} to {duration(value.seconds_max)}"
    return f"for {span} after {value.after} of {listed(sorted(value.on))} in a row"


def breaker(value: Breaker | None) -> str:
    if value is None:
        return "none"
    return (
        f"at {percent(value.errors_share)} of at least {value.calls} calls in {duration(value.window_seconds)} that end in "
        f"{listed(sorted(value.on))}, for {duration(value.open_seconds)}, then {value.trials} trials"
    )


def connections(value: Connections) -> str:
    return f"{value.at_most}, and {value.waiting} calls that wait up to {duration(value.wait_seconds)}"


def scopes(all_of: Iterable[str], any_of: Iterable[str]) -> str:
    """What one method needs."""
    parts = [listed(sorted(all_of), nothing="")] if all_of else []
    if any_of:
        parts.append(f"one of {listed(sorted(any_of))}")
    return " and ".join(parts) or "none"


def scopes_by_method(value: Authentication) -> str:
    named = (
        f"{method}: {scopes(value.scopes[method], value.any_scopes.get(method, ()))}" for method in sorted(value.scopes)
    )
    return "; ".join(named) or "none"


def claim(value: str | ByClaim | None) -> str:
    """A value of a token: fixed, or by a claim."""
    if not isinstance(value, ByClaim):
        return value or "none"
    otherwise = "" if value.otherwise is None else f", else {value.otherwise}"
    return f"by the claim {'.'.join(value.claim)}{otherwise}"


def issuer_keys(value: KeysAt | KeysInFile) -> str:
    """Of a file by its content too, so that a rotation under the same name shows."""
    if isinstance(value, KeysInFile):
        return f"{value.file} ({sha256(value.document).hexdigest()[:8]})"
    authorities = (
        "" if value.ca is None or value.ca_pem is None else f", ca {value.ca} ({sha256(value.ca_pem).hexdigest()[:8]})"
    )
    return (
        f"{value.url.partition('?')[0]} every {duration(value.refresh_seconds)}, not twice in "
        f"{duration(value.cooldown_seconds)}, believed for {duration(value.stale_seconds)}{authorities}"
    )


def certificate_use(value: CertificateUse) -> str:
    return f"{value.by} {value.value} is {value.key_id}"


def upstreams(value: Mapping[Environment, str]) -> str:
    names = set(value.values())
    if len(names) == 1 and len(value) == len(Environment):
        return names.pop()
    return ", ".join(f"{environment}: {value[environment]}" for environment in Environment if environment in value)


def listed(values: Iterable[str], *, nothing: str = "none") -> str:
    return ", ".join(values) or nothing


def address_lists(value: AddressLists | None) -> str:
    if value is None:
        return "any"
    allowed = listed(map(str, value.allow[:_LISTED_MAX]), nothing="any")
    more = "" if len(value.allow) <= _LISTED_MAX else f" and {len(value.allow) - _LISTED_MAX} more"
    if not value.deny:
        return allowed + more
    denied = listed(map(str, value.deny[:_LISTED_MAX]))
    return f"{allowed}{more}; never {denied}" + (
        "" if len(value.deny) <= _LISTED_MAX else f" and {len(value.deny) - _LISTED_MAX} more"
    )


def cross_origin(value: CrossOrigin | None) -> str:
    if value is None:
        return "left to the upstream"
    credentials = ", with credentials" if value.credentials else ""
    return (
        f"pages of {listed(value.origins)} may {listed(value.methods)}{credentials}, send {listed(value.headers)}, "
        f"read {listed(value.expose)}; remembered for {duration(value.max_age_seconds)}"
    )


def header_edits(value: HeaderEdits | None) -> str:
    """The names alone: what is sent to an upstream may be a secret between the two."""
    if value is None:
        return "none"
    parts = [f"set {name}" for name, _ in value.set] + [f"add {name}" for name, _ in value.add]
    return listed(parts + [f"remove {name}" for name in value.remove])


def security(value: SecurityHeaders | None) -> str:
    if value is None:
        return "none"
    hsts = f"hsts {duration(value.hsts_seconds)}{' with subdomains' if value.hsts_subdomains else ''}"
    parts = [hsts] if value.hsts_seconds else []
    parts += ["no_sniff"] if value.no_sniff else []
    parts += [f"framing {value.framing}"] if value.framing is not Framing.ANY else []
    parts += [f"referrer_policy {value.referrer_policy}"] if value.referrer_policy else []
    return listed(parts)


def deprecation(value: Deprecation | None) -> str:
    if value is None:
        return "none"
    text = f"since {day(value.since)}"
    if value.sunset is not None:
        text += f", sunset {day(value.sunset)}, then {value.after_sunset}"
    return text + (f", see {value.link}" if value.link else "")


def day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def store_url(url: str | None) -> str:
    """Where the store is: without user, password and query, for each may hold a secret."""
    if url is None:
        return "none"
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def key_encryption(value: KeyEncryption | None) -> str:
    """Names, and where those are that are kept elsewhere."""
    if value is None:
        return "none"
    parts = []
    for name, kek in value.keys.items():
        where = "(a secret)" if isinstance(kek, bytes) else f"{kek.mount}/{kek.key} of {kek.address}"
        parts.append(f"{name} {where}" + (" (current)" if name == value.current else ""))
    return listed(parts)


def failed_attempts(value: FailedAttempts | None) -> str:
    if value is None:
        return "off"
    return f"{value.per_address} a minute of an address, an alarm from {value.per_key} a minute of a key"


def certificate(value: Certificate) -> str:
    """By file, content and end, so that a renewal under the same name shows."""
    until = datetime.fromtimestamp(value.expires_at, UTC).strftime("%Y-%m-%d")
    return f"{value.cert} ({sha256(value.cert_pem).hexdigest()[:8]}, until {until})"


def client_authorities(value: ClientAuthorities | None) -> str:
    if value is None:
        return "no client certificates"
    revoked = "" if value.revocation_file is None else f", {len(value.revoked)} revoked by {value.revocation_file}"
    return f"{value.presence}, of {value.file} ({sha256(value.pem).hexdigest()[:8]}){revoked}"


def gzip(value: Gzip | None) -> str:
    if value is None:
        return "no"
    return f"{listed(sorted(value.types))} from {size(value.bytes_min)}"
