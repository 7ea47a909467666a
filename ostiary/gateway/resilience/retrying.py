"""Whether a call is tried again after an attempt that failed, and at which target: only where that can't do a thing twice
(nothing was sent, or the method is idempotent and the whole request is still here, RFC 9110 §9.2.2), and only within the
upstream's budget of further tries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ostiary.core.upstream import Retries
from ostiary.gateway.wire.dialing import ConnectFailed
from ostiary.gateway.wire.upstream_failure import UpstreamFailure, UpstreamReset, UpstreamSilent

if TYPE_CHECKING:
    from ostiary.gateway.upstreams import Member, UpstreamGroup
    from ostiary.gateway.wire.upstream import UpstreamConnection

IDEMPOTENT_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


class Try(NamedTuple):
    """What is known when an attempt has failed."""

    number: int  # 1 for the first
    cause: str  # `connect`, `reset`, `timeout`, `protocol`, or the status of a whole answer
    answered: bool  # a part of an answer has come
    stale: bool  # on a kept connection, which its server may have closed in this very moment


def may_retry(retries: Retries, attempt: Try, *, idempotent: bool, repeatable: bool) -> bool:
    """Whether asking again is safe and wanted. `repeatable`: no part of a streamed body has been handed on."""
    if not repeatable:
        return False
    if attempt.cause == "connect":  # no request was taken; a TLS server may refuse a handshake after it was sent one
        return attempt.number < retries.attempts and "connect" in retries.on
    if not idempotent:
        return False
    if attempt.stale:
        return True  # happens at most once: the next try takes a fresh connection
    if attempt.number >= retries.attempts:
        return False
    return attempt.cause in retries.on and not (attempt.cause == "reset" and attempt.answered)


class Retrying:
    """One call's attempts that failed; made with the first of them. `epoch` is what its guard has given it; a body that
    `streams` can't be sent again once it was begun."""

    __slots__ = ("_affinity", "_epoch", "_group", "_idempotent", "_number", "_streams", "_tried", "fresh")

    def __init__(self, group: UpstreamGroup, affinity: str, epoch: int, *, method: bytes, streams: bool) -> None:
        self.fresh = False  # the next attempt must not take a kept connection: the last one's was stale
        self._group = group
        self._affinity = affinity
        self._epoch = epoch
        self._idempotent = method in IDEMPOTENT_METHODS
        self._streams = streams
        self._number = 0
        self._tried: list[Member] = []

    def following(
        self,
        member: Member,
        connection: UpstreamConnection | None,
        status: int,
        failure: UpstreamFailure | ConnectFailed | None,
        began: float,
        now: float,
    ) -> Member | None:
        """The target to try next, None for no further try, after one at `member` that ended in `failure`, or in an answer
        with `status`. The guard is told of it."""
        attempt = _judge(self._number + 1, status, failure, connection, stale_before=self.fresh)
        guard = self._group.guard
        if guard is not None and not attempt.stale:
            guard.failed(member.number, member.health, attempt.cause, began, self._epoch, now)
        repeatable = not self._streams or connection is None
        following: Member | None = None
        if may_retry(self._group.upstream.retries, attempt, idempotent=self._idempotent, repeatable=repeatable):
            following = member if attempt.stale else self._another(member, attempt, now)
        self.fresh = attempt.stale
        if not attempt.stale:  # else it was no attempt of the target's: it may not have seen it
            self._number += 1
        elif following is None and guard is not None:
            guard.abandoned(member.health, self._epoch)
        return following

    def _another(self, member: Member, attempt: Try, now: float) -> Member | None:
        """Another target if there is one, else the same, which a connection can't be tried with again.

        A try after a failed connect is free of the budget when the other target's last call went well: nothing was sent, and
        one that works takes the call. When all are down none is like that, and further tries are few."""
        self._tried.append(member)
        other = self._group.choose(self._affinity, now, self._tried)
        if other is None:
            if attempt.cause == "connect":
                return None
            other = self._group.choose(self._affinity, now)
        guard = self._group.guard
        if guard is None or other is None:
            return other
        free = attempt.cause == "connect" and attempt.number == 1 and not other.health.failures and not other.health.out
        if guard.may_try_again(free=free, now=now):
            return other
        other.health.end_trial()
        return None


def _judge(
    number: int,
    status: int,
    failure: UpstreamFailure | ConnectFailed | None,
    connection: UpstreamConnection | None,
    *,
    stale_before: bool,
) -> Try:
    if failure is None:
        return Try(number, str(status), answered=True, stale=False)
    if isinstance(failure, ConnectFailed):
        return Try(number, "connect", answered=False, stale=False)
    if isinstance(failure, UpstreamReset):
        kept = connection is not None and connection.reused and not stale_before
        return Try(number, "reset", answered=failure.answered, stale=kept and not failure.answered)
    cause = "timeout" if isinstance(failure, UpstreamSilent) else "protocol"
    return Try(number, cause, answered=failure.answered, stale=False)
