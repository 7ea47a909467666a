"""THE request path. Each line of `handle` is a phase of `phases/`; read them in this order.

admit ─► match ─► authenticate ─► authorize ─► limit ─► prepare ─► forward ─► respond ─► record
   └────────┴──────────┴─────────────┴───────────┴────────── error ──► fail ───────────────┘  always, once

A worker that is overloaded asks `shed` after match, and one that serves no call without metering it asks `claim` after
authenticate: a call that is refused there ends there.
"""

from __future__ import annotations

from collections.abc import Callable

from ostiary.core.errors import GatewayError
from ostiary.gateway.exchange import Answered, ClientGone, Exchange
from ostiary.gateway.failed_attempts import Gate
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.limits import Limiter
from ostiary.gateway.overload.shedding import Shedder
from ostiary.gateway.phases.admit import RequestIds, admit
from ostiary.gateway.phases.authenticate import authenticate
from ostiary.gateway.phases.authorize import authorize
from ostiary.gateway.phases.claim import is_unmeterable
from ostiary.gateway.phases.fail import answer, fail
from ostiary.gateway.phases.forward import forward
from ostiary.gateway.phases.limit import limit, settle
from ostiary.gateway.phases.match import match
from ostiary.gateway.phases.prepare import prepare
from ostiary.gateway.phases.record import Recorder
from ostiary.gateway.phases.respond import respond
from ostiary.gateway.phases.shed import Refusals, is_refused
from ostiary.gateway.signal import ENDED
from ostiary.gateway.usage import Spool
from ostiary.gateway.wire.states import State


class Pipeline:
    """What the phases ask: keys, limits, the recorder, the shedder, the gate, ids and the loop's clock. `claims` is the spool
    where calls that it has no room for are refused; None where they are served."""

    def __init__(
        self,
        *,
        keys: KeyRing,
        limiter: Limiter,
        recorder: Recorder,
        shedder: Shedder,
        gate: Gate,
        claims: Spool | None,
        ids: RequestIds,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._recorder = recorder
        self._shedder = shedder
        self._gate = gate
        self._claims = claims
        self._refusals = Refusals()
        self._ids = ids
        self._clock = clock

    async def handle(self, exchange: Exchange) -> None:
        """One request, from its head to the last byte of its answer. Raises nothing but programming errors."""
        last: bytes | None = None
        try:
            admit(exchange, self._ids)
            match(exchange)
            if self._shedder.watchful and is_refused(exchange, self._shedder):
                self._turn_away(exchange)
                return
            await authenticate(exchange, self._keys)
            if self._claims is not None and is_unmeterable(exchange, self._claims):
                self._refuse_unmetered(exchange)
                return
            authorize(exchange)
            await limit(exchange, self._limiter)
            prepare(exchange)
            self._recorder.open(exchange, self._clock())
            head = await forward(exchange, self._clock)
            if exchange.charge is not None:
                settle(exchange, exchange.charge, head, self._limiter)
            last = await respond(exchange, head, self._keys)
        except GatewayError as error:
            last = fail(exchange, self._gate.answer_to(exchange, error))
        except Answered as answered:  # a preflight, or `OPTIONS *`: nothing is wrong, and no upstream is asked
            last = answer(exchange, answered)
        except ClientGone:
            exchange.complete = False
        self._recorder.record(exchange, self._clock())
        self._finish(exchange, last)
        await ENDED

    def _turn_away(self, exchange: Exchange) -> None:
        """503, at the least cost; then the client has to wait, whether or not it heeds Retry-After."""
        client = exchange.client
        answer = self._refusals.answer(exchange)
        self._recorder.record_shed(exchange, self._clock())
        self._finish(exchange, answer)
        if client.state is State.IDLE:
            self._shedder.hold(client)

    def _refuse_unmetered(self, exchange: Exchange) -> None:
        """503 as well. The connection is read on: there may be room as soon as another call has ended."""
        answer = self._refusals.answer(exchange)
        self._recorder.record_blocked(exchange, self._clock())
        self._finish(exchange, answer)

    def _finish(self, exchange: Exchange, last: bytes | None) -> None:
        """Gives the client the last part, or breaks off; gives back what the exchange held."""
        upstream, decision = exchange.upstream, exchange.decision
        if last is None:
            exchange.client.abort()
        else:
            exchange.client.finish(last)
        if upstream is not None:
            exchange.upstream = None
            if exchange.error is None and exchange.complete:
                upstream.end()
            else:
                upstream.abort()
        if exchange.held_body is not None:
            exchange.held_body.close()
        if exchange.alarm is not None:
            exchange.alarm.end()
        if decision is not None and decision.lease is not None:
            self._limiter.release(decision.lease)
