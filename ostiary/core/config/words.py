"""The model in words, as people read it in `config diff` and `config explain`. No secret is ever in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from ostiary.core.model import (
    Certificate,
    ClientAuthorities,
    Environment,
    Gzip,
    Plan,
    Quota,
    Rate,
    RouteLimit,
    Target,
    Window,
)

_SPANS: Final = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"))
_SIZES: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


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
    return f"{value.requests} per {span(value.per_seconds)}, {value.burst} at once"


def window(value: Window) -> str:
    return f"{value.requests} in any {span(value.window_seconds)}"


def quota(value: Quota) -> str:
    return f"{value.requests} per {value.period} (UTC)"


def route_limit(value: RouteLimit) -> str:
    return f"{value.requests} in any {span(value.window_seconds)} by {value.by}"


def plan(value: Plan) -> str:
    parts = [rate(value.rate)] if value.rate else []
    parts += [window(limit) for limit in value.windows]
    parts += [f"{quota(each)}, then {value.overage}" for each in value.quotas]
    parts += [f"{value.concurrency} under way at once"] if value.concurrency else []
    return "; ".join(parts) or "no limits"


def target(value: Target) -> str:
    return f"{value.scheme}://{value.authority}" + (f" (weight {value.weight})" if value.weight != 1 else "")


def upstreams(value: Mapping[Environment, str]) -> str:
    names = set(value.values())
    if len(names) == 1 and len(value) == len(Environment):
        return names.pop()
    return ", ".join(f"{environment}: {value[environment]}" for environment in Environment if environment in value)


def listed(values: Iterable[str], *, nothing: str = "none") -> str:
    return ", ".join(values) or nothing


def store_url(url: str | None) -> str:
    """Where the store is: without user, password and query, for each may hold a secret."""
    if url is None:
        return "none"
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def certificate(value: Certificate) -> str:
    """By file, content and end, so that a renewal under the same name shows."""
    until = datetime.fromtimestamp(value.expires_at, UTC).strftime("%Y-%m-%d")
    return f"{value.cert} ({sha256(value.cert_pem).hexdigest()[:8]}, until {until})"


def client_authorities(value: ClientAuthorities | None) -> str:
    if value is None:
        return "no client certificates"
    return f"{value.presence}, of {value.file} ({sha256(value.pem).hexdigest()[:8]})"


def gzip(value: Gzip | None) -> str:
    if value is None:
        return "no"
    return f"{listed(sorted(value.types))} from {size(value.bytes_min)}"
