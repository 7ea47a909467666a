"""limit: is there budget? One decision for all limits, the quota and the nonce; nothing is spent when any of them refuses.
Where the upstream says what a call cost, that is settled when it has answered."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.signing import nonce_lifetime_seconds
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.limits import Charge, Limiter, Outcome
from ostiary.gateway.wire.request_head import RequestHead
from ostiary.gateway.wire.response_head import ResponseHead

_ALLOWED: Final = Outcome.ALLOWED
_CODES: Final = {
    Outcome.RATE_LIMITED: ErrorCode.RATE_LIMITED,
    Outcome.QUOTA_EXCEEDED: ErrorCode.QUOTA_EXCEEDED,
    Outcome.TOO_MANY_CONCURRENT: ErrorCode.TOO_MANY_CONCURRENT,
    Outcome.NONCE_REPLAYED: ErrorCode.NONCE_REPLAYED,
    Outcome.UNAVAILABLE: ErrorCode.LIMITS_UNAVAILABLE,
}
_SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_is_cost: Final = re.compile(rb"-?[0-9]{1,15}").fullmatch


async def limit(exchange: Exchange, limiter: Limiter) -> None:
    """Sets `decision` where there is something to decide. Raises the 429s, NONCE_REPLAYED or LIMITS_UNAVAILABLE."""
    admission, route = exchange.admission, exchange.route
    assert admission is not None  # noqa: S101  authorize has set it
    assert route is not None  # noqa: S101  match has set it
    if admission.unlimited and exchange.nonce is None:
        return
    policy = admission.policy
    if policy.by_method:
        policy = policy.by_method.get(exchange.head.method, policy)
    # Where the names are known already nothing of the key is asked: each of its ids is an object somewhere else in memory.
    key = admission.key if exchange.limit_names is None or exchange.nonce is not None else None
    decision = exchange.decision = await limiter.decide(
        policy,
        on_failure=route.route.on_store_failure,
        key_id=key.id if key is not None else None,
        app_id=key.app_id if key is not None else None,
        organization_id=key.organization_id if key is not None else None,
        ip=exchange.ip,
        nonce=exchange.nonce,
        nonce_ttl_seconds=nonce_lifetime_seconds(exchange.snapshot.skew.seconds),
        signed_write=exchange.nonce is not None and exchange.head.method not in _SAFE_METHODS,
        headers=_values(policy.headers, exchange.head) if policy.headers else None,
        names=exchange.limit_names,
    )
    if decision.outcome is _ALLOWED:
        if decision.charge is not None:
            exchange.charge = decision.charge
        return
    headers: tuple[tuple[str, str], ...] = ()
    if decision.retry_after_seconds:
        headers = (("Retry-After", str(decision.retry_after_seconds)),)
    if decision.outcome is Outcome.NONCE_REPLAYED:
        headers = (("WWW-Authenticate", route.challenge),)
        route.meters.attempt(exchange.scheme, ErrorCode.NONCE_REPLAYED.code)
    raise GatewayError(_CODES[decision.outcome], f"limit {decision.limit}", headers=headers)


def _values(names: tuple[bytes, ...], head: RequestHead) -> dict[bytes, bytes]:
    """Of the headers that limits go by. One that is sent several times counts as the list that it then is (RFC 9110 §5.3):
    what an upstream makes of it is not ours to know."""
    values: dict[bytes, bytes] = {}
    for name in names:
        if (known := head.values.get(name)) is not None:
            values[name] = known
            continue
        length = len(name)
        told = [
            line[length + 1 :].strip(b" \t")
            for line in head.lines
            if line[length : length + 1] == b":" and line[:length].lower() == name
        ]
        if told:
            values[name] = b", ".join(told)
    return values


def settle(exchange: Exchange, charge: Charge, answer: ResponseHead, limiter: Limiter) -> None:
    """Settles what the call cost, where the upstream says it: from nothing to the most that the route lets it say. What is no
    whole number, or is said twice, changes nothing and is counted; an answer that says nothing leaves what was charged."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    name, cost = route.cost_header, route.route.cost
    length = len(name)
    told = [
        line[length + 1 :].strip(b" \t")
        for line in answer.lines
        if line[length : length + 1] == b":" and line[:length].lower() == name
    ]
    if not told:
        return
    if len(told) > 1 or _is_cost(told[0]) is None:
        limiter.settle(charge, None)
    else:
        limiter.settle(charge, min(max(int(told[0]), 0), cost.at_most))
