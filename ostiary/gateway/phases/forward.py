"""forward: ask an upstream. Try again only where that can't do a thing twice: nothing was sent, or the method is idempotent
and the whole request is still here (RFC 9110 §9.2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import Retries
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.wire.dialing import ConnectFailed, ConnectTimedOut
from ostiary.gateway.wire.pool import TargetPool
from ostiary.gateway.wire.response_head import ResponseHead
from ostiary.gateway.wire.upstream import (
    UpstreamConnection,
    UpstreamFailure,
    UpstreamReset,
    UpstreamSilent,
)

IDEMPOTENT_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


Clock = Callable[[], float]


class Try(NamedTuple):
    """What is known when an attempt has failed."""

    number: int  # 1 for the first
    reused: bool  # on a kept connection, which its server may have closed in this very moment
    answered: bool  # a part of an answer has come
    reset: bool
    status: int  # of a whole answer, else 0


def may_retry(retries: Retries, attempt: Try, *, idempotent: bool, repeatable: bool) -> bool:
    """Whether to ask again. `repeatable`: no part of a streamed body has been handed on."""
    if not idempotent or not repeatable:
        return False
    if attempt.reused and attempt.reset and not attempt.answered:
        return True  # happens at most once: the next try takes a fresh connection
    if attempt.number >= retries.attempts:
        return False
    if attempt.status:
        return str(attempt.status) in retries.on
    return attempt.reset and not attempt.answered and "reset" in retries.on


async def forward(exchange: Exchange, clock: Clock) -> ResponseHead:
    """Sets `upstream`; its answer's head is the result, its body is yet to come. Raises UPSTREAM_UNREACHABLE, _TIMEOUT,
    _PROTOCOL_ERROR or OVERLOADED."""
    admission = exchange.admission
    assert admission is not None  # noqa: S101  authorize has set it
    group = admission.group
    assert group is not None  # noqa: S101  authorize has refused otherwise
    upstream = group.upstream
    head = exchange.head
    streams = exchange.body is not None and exchange.body_bytes is None
    start = b"%b %b HTTP/1.1\r\nHost: " % (head.method, head.target)
    affinity = admission.key.id if admission.key is not None else exchange.ip
    tried: list[TargetPool] = []
    number = 0
    fresh = False
    exchange.upstream_started = clock()
    while True:
        number += 1
        pool = group.choose(affinity, tried) or group.choose(affinity)
        if pool is None:
            raise GatewayError(ErrorCode.OVERLOADED, f"upstream {group.name}: no connection to spare")
        connection = None if fresh else pool.take()
        if connection is None:
            connection = await _connect(exchange, group.name, pool, tried, number)
            if connection is None:
                continue
        exchange.upstream = connection
        status, failure = 0, None
        try:
            answer = await connection.send(
                start + pool.authority + exchange.upstream_head,
                head.method,
                exchange.body if streams else None,
                first_byte_seconds=upstream.timeouts.first_byte_seconds,
                idle_seconds=upstream.timeouts.idle_seconds,
            )
            exchange.upstream_answered = clock()
            if answer.status < 500:
                return answer
            status = answer.status
        except UpstreamFailure as error:
            failure = error
        except ConnectFailed as refusal:  # the end of its handshake came after the request
            connection.abort()
            exchange.upstream = None
            _unconnected(exchange, group.name, pool, tried, number, refusal)
            continue
        attempt = Try(
            number=number,
            reused=connection.reused,
            answered=failure is None or failure.answered,
            reset=isinstance(failure, UpstreamReset),
            status=status,
        )
        if not may_retry(
            upstream.retries,
            attempt,
            idempotent=head.method in IDEMPOTENT_METHODS,
            repeatable=not streams,
        ):
            if failure is None:
                return answer
            raise _error_of(failure, group.name) from failure
        _count(exchange, group.name, status, clock)
        connection.abort()
        exchange.upstream = None
        exchange.upstream_answered = 0.0
        if attempt.reused and attempt.reset:
            fresh = True
        else:
            tried.append(pool)


async def _connect(
    exchange: Exchange, name: str, pool: TargetPool, tried: list[TargetPool], number: int
) -> UpstreamConnection | None:
    """A fresh connection, or None when another target may be asked. Nothing has been sent, so any method may."""
    if pool.full:
        raise GatewayError(ErrorCode.OVERLOADED, f"upstream {name}: too many connections")
    try:
        return await pool.connect()
    except ConnectFailed as error:
        _unconnected(exchange, name, pool, tried, number, error)
        return None


def _unconnected(
    exchange: Exchange, name: str, pool: TargetPool, tried: list[TargetPool], number: int, error: ConnectFailed
) -> None:
    """Returns when another target may be asked. Raises UPSTREAM_UNREACHABLE or UPSTREAM_TIMEOUT."""
    tried.append(pool)
    group = exchange.admission.group if exchange.admission is not None else None
    retries = group.upstream.retries if group is not None else Retries()
    others = group is not None and group.choose("", tried) is not None
    if others and number < max(retries.attempts, 2) and "connect" in retries.on:
        return
    code = ErrorCode.UPSTREAM_TIMEOUT if isinstance(error, ConnectTimedOut) else ErrorCode.UPSTREAM_UNREACHABLE
    raise GatewayError(code, f"upstream {name}: {error}") from error


def _error_of(failure: UpstreamFailure, name: str) -> GatewayError:
    reason = f"upstream {name}: {failure.reason}"
    if isinstance(failure, UpstreamSilent):
        return GatewayError(ErrorCode.UPSTREAM_TIMEOUT, reason)
    if isinstance(failure, UpstreamReset) and not failure.answered:
        return GatewayError(ErrorCode.UPSTREAM_UNREACHABLE, reason)
    return GatewayError(ErrorCode.UPSTREAM_PROTOCOL_ERROR, reason)


def _count(exchange: Exchange, name: str, status: int, clock: Clock) -> None:
    if exchange.route is not None:
        exchange.route.meters.upstream(name, status, clock() - exchange.upstream_started)
