"""Every name in Redis and how long it lives. There are no channels: changes travel by Postgres (NOTIFY).

The part in braces is the hash tag of Redis Cluster: all that belongs to one subject lies in one slot. What comes from a
request (key id, address, nonce) has been checked before it becomes part of a name; names of routes come last."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from ostiary.core.limiting import Limit
from ostiary.core.model import Environment, LimitBy

# A lease outlives its last renewal by this long; so long do the calls of a killed worker count as under way.
LEASE_SECONDS = 60

# Three renewals fit in a lease: one may be lost to a reconnect, and the next still comes in time.
LEASE_RENEWAL_SECONDS = 20

# A state is forgotten by Redis this long after it has no effect any more; without it a key at its limit could vanish
# in the same millisecond in which it still counts.
STATE_MARGIN_MS = 1000

PROBE_NONCE_MS = 1000

# A keepsake is looked at each second. One that ends because all gateways were stopped for longer is missed by none of them.
KEEPSAKE_MS: Final = 7 * 86_400_000

# What tells callers apart by a header: names of tenants and users are far shorter. Beyond it the header counts as not sent.
HEADER_VALUE_BYTES_MAX: Final = 256


def plan_state(key_id: str) -> str:
    """String: what a key has used of its plan (lua/decide.lua describes the content). Lives `state_ttl_ms`."""
    return f"ost:{{k:{key_id}}}:plan"


def leases(key_id: str) -> str:
    """Sorted set: the calls of a key under way, by the moment (µs) their lease ends. Lives LEASE_SECONDS."""
    return f"ost:{{k:{key_id}}}:leases"


def shared_plan_state(subject: str, plan: str) -> str:
    """String: what all keys of an app or organization have used of a plan that counts them together. The plan is in the name,
    because keys of one app may have different ones. Lives `state_ttl_ms`."""
    return f"ost:{{{subject}}}:plan:{plan}"


def shared_leases(subject: str, plan: str) -> str:
    """Sorted set: their calls under way, as in `leases`."""
    return f"ost:{{{subject}}}:leases:{plan}"


def nonce(key_id: str, value: str) -> str:
    """String: this nonce of this key is used up. Lives twice the allowed clock skew."""
    return f"ost:{{k:{key_id}}}:nonce:{value}"


def route_state(route: str, by: str, subject: str) -> str:
    """String: what `subject` (see `subject`) has used of the limits of a route by one measure: `ip`, `header-x-tenant` ...
    Lives `state_ttl_ms`."""
    return f"ost:{{{subject}}}:{by}:{route}"


def route_leases(route: str, by: str, subject: str) -> str:
    """Sorted set: the calls of `subject` under way on a route, as in `leases`."""
    return f"ost:{{{subject}}}:leases-{by}:{route}"


def subject(
    by: LimitBy,
    *,
    environment: Environment = Environment.LIVE,
    route: str,
    key_id: str | None,
    app_id: str | None,
    organization_id: str | None,
    ip: str,
    header: str = "",
    value: bytes = b"",
) -> str:
    """Whose calls are counted together. Test calls are counted apart from live ones: nobody's tests use up what their
    customers have. An address has no environment: its calls without a caller (preflights) count with the others. A
    caller that lacks what the limit goes by is counted by the narrowest thing known of it (its key, else its address):
    a limit by app must hold for a key without an app too, and one by a header for calls without it, or with more in it
    than HEADER_VALUE_BYTES_MAX.

    The value of a header is the client's, may be a secret, and is of any length: what stands in the name is a hash."""
    if by is LimitBy.HEADER and 0 < len(value) <= HEADER_VALUE_BYTES_MAX:
        who = f"h:{sha256(header.encode() + b':' + value).hexdigest()[:32]}"
    else:
        who = _who(by, route=route, key_id=key_id, app_id=app_id, organization_id=organization_id, ip=ip)
    return f"test:{who}" if environment is Environment.TEST and by is not LimitBy.IP else who


def _who(
    by: LimitBy, *, route: str, key_id: str | None, app_id: str | None, organization_id: str | None, ip: str
) -> str:
    match by:
        case LimitBy.ROUTE:
            return f"r:{route}"
        case LimitBy.APP if app_id is not None:
            return f"a:{app_id}"
        case LimitBy.ORGANIZATION if organization_id is not None:
            return f"o:{organization_id}"
        case LimitBy.IP:
            return f"i:{ip}"
        case _:
            return f"i:{ip}" if key_id is None else f"k:{key_id}"


def nodes() -> str:
    """Sorted set: the gateway nodes, by the moment (µs) from which each no longer counts unless it says something before.
    Lives as long as the last of them."""
    return "ost:{nodes}"


def skews() -> str:
    """Sorted set: the skews by which signed calls were judged in the last hours, in seconds, by the time (Unix seconds) below
    which such calls are dated. Beside `nodes`, in a cluster too. Lives four hours after the last node's last word."""
    return "ost:{nodes}:skews"


def probe(worker: str) -> str:
    """String: written by a worker to see whether Redis takes writes. Lives PROBE_NONCE_MS."""
    return f"ost:{{probe:{worker}}}"


def keepsake(number: int) -> str:
    """String: what a Redis that has forgotten everything does not have any more (lua/keepsake.lua). In a cluster each master
    has the one of the lowest number that lies in its slots; one Redis has number 0. Lives KEEPSAKE_MS."""
    return f"ost:{{keepsake:{number}}}"


def state_ttl_ms(limits: Sequence[Limit]) -> int:
    """How long the state of these limits matters after its last call."""
    return max(limit.memory_us for limit in limits) // 1000 + STATE_MARGIN_MS
