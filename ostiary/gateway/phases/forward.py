"""forward: ask an upstream, and ask again where that is safe and wanted (`resilience/retrying`)."""

from __future__ import annotations

from collections.abc import Callable

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.resilience.guard import Guard
from ostiary.gateway.resilience.retrying import Retrying
from ostiary.gateway.upstreams import Member, UpstreamGroup
from ostiary.gateway.wire.dialing import ConnectFailed, ConnectTimedOut
from ostiary.gateway.wire.pool import NoConnection, TargetPool
from ostiary.gateway.wire.response_head import ResponseHead
from ostiary.gateway.wire.upstream import UpstreamConnection
from ostiary.gateway.wire.upstream_failure import UpstreamFailure, UpstreamReset, UpstreamSilent

Clock = Callable[[], float]


async def forward(exchange: Exchange, clock: Clock) -> ResponseHead:
    """Sets `upstream`; its answer's head is the result, its body is yet to come. Raises UPSTREAM_UNREACHABLE, _TIMEOUT,
    _PROTOCOL_ERROR, _UNHEALTHY or OVERLOADED."""
    admission = exchange.admission
    assert admission is not None  # noqa: S101  authorize has set it
    group = admission.group
    assert group is not None  # noqa: S101  authorize has refused otherwise
    guard, head = group.guard, exchange.head
    # A body that was held back can be sent again, wherever it is; one that streams can't.
    held = exchange.held_body
    streams = exchange.body is not None and exchange.body_bytes is None and held is None
    upload = exchange.body if streams else held
    start = b"%b %b HTTP/1.1\r\nHost: " % (head.method, exchange.upstream_target or head.target)
    affinity = "" if admission.affinity is None else admission.affinity.of(exchange)
    began = clock()
    epoch = 0 if guard is None else guard.admit(began)
    exchange.upstream_started = began
    if (seconds := group.whole_seconds) is not None:
        late = GatewayError(ErrorCode.UPSTREAM_TIMEOUT, f"upstream {group.name}: not whole within {seconds:g} s")
        exchange.alarm = exchange.client.bound_call(seconds, late)
    retrying: Retrying | None = None  # once an attempt has failed
    member = group.choose(affinity, began)
    assert member is not None  # noqa: S101  nothing was tried yet
    while True:
        pool = member.pool
        fresh = retrying is not None and retrying.fresh
        connection = None if fresh else pool.take()
        status = 0
        failure: UpstreamFailure | ConnectFailed | None = None
        try:
            if connection is None:
                connection = await _connect(group, pool, fresh=fresh)
            exchange.upstream = connection
            answer = await connection.send(
                start + pool.authority + exchange.upstream_head,
                head.method,
                upload,
                first_byte_seconds=group.first_byte_seconds,
                idle_seconds=group.idle_seconds,
            )
            if answer.status < 200:
                answer = await _pass_interim(exchange, connection, answer)
            now = exchange.upstream_answered = clock()
            if answer.status < 500:
                if guard is not None:
                    guard.succeeded(member.number, member.health, began, epoch, now)
                return answer
            status = answer.status
        # A name of its own in each clause: mypyc gives a name one type.
        except (UpstreamFailure, ConnectFailed) as failed:
            failure = failed
            now = clock()
        except GatewayError as ended:
            if guard is not None:
                _interrupted(guard, member, ended, began, epoch, clock())
            raise
        except Exception:  # its client has gone
            if guard is not None:
                guard.abandoned(member.health, epoch)
            raise
        if retrying is None:
            retrying = Retrying(group, affinity, epoch, method=head.method, streams=streams)
        following = retrying.following(member, connection, status, failure, began, now)
        if following is None:
            if failure is None:
                return answer
            raise _error_of(failure, group.name) from failure
        if connection is not None:
            group.calls.call(status, clock() - exchange.upstream_started)
            connection.abort()
            exchange.upstream = None
            exchange.upstream_answered = 0.0
        member, began = following, now


async def _pass_interim(exchange: Exchange, connection: UpstreamConnection, answer: ResponseHead) -> ResponseHead:
    """Gives the client what comes before the answer, as a proxy must (RFC 9110 §15.2); HTTP/1.0 knows none of it. The result
    is the answer, or a 101."""
    while answer.status < 200 and answer.status != 101:
        if exchange.head.minor:
            lines = b"".join(b"%b\r\n" % line for line in answer.lines)
            exchange.client.write_interim(b"HTTP/1.1 %b\r\n%b\r\n" % (answer.status_line, lines))
        answer = await connection.answer
    return answer


async def _connect(group: UpstreamGroup, pool: TargetPool, *, fresh: bool) -> UpstreamConnection:
    """A connection where none is kept; one that was never used if it has to be `fresh`. Raises ConnectFailed, OVERLOADED."""
    if fresh:
        return await pool.connect()
    waits = pool.must_wait
    turn = pool.obtain()
    if turn is None:
        group.meters.waited("refused")
        raise GatewayError(ErrorCode.OVERLOADED, f"upstream {group.name}: too many calls wait for a connection")
    try:
        connection = await turn
    except NoConnection as error:
        group.meters.waited("timed_out")
        raise GatewayError(ErrorCode.OVERLOADED, f"upstream {group.name}: {error}") from error
    if waits:
        group.meters.waited("served")
    return connection


def _interrupted(guard: Guard, member: Member, error: GatewayError, began: float, epoch: int, now: float) -> None:
    """The attempt ended by other means than its own: the time for the whole call is over, the client's body turned out bad,
    there was no connection."""
    if error.code is ErrorCode.UPSTREAM_TIMEOUT:
        guard.failed(member.number, member.health, "timeout", began, epoch, now)
    else:
        guard.abandoned(member.health, epoch)


def _error_of(failure: UpstreamFailure | ConnectFailed, name: str) -> GatewayError:
    reason = f"upstream {name}: {failure}"
    if isinstance(failure, UpstreamSilent | ConnectTimedOut):
        return GatewayError(ErrorCode.UPSTREAM_TIMEOUT, reason)
    if isinstance(failure, ConnectFailed) or (isinstance(failure, UpstreamReset) and not failure.answered):
        return GatewayError(ErrorCode.UPSTREAM_UNREACHABLE, reason)
    return GatewayError(ErrorCode.UPSTREAM_PROTOCOL_ERROR, reason)
