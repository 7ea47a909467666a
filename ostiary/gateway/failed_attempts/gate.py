"""The gate before look-ups and signatures: whoever has failed too often is told to wait, and costs nothing more.

An attempt fails with CREDENTIALS_INVALID or NONCE_REPLAYED. It is counted three times:

    by address                  beyond its bound only keys that this worker knows go on; nobody is asked for others
    by address and known key    beyond the same bound not that key either, from there: no signature is verified
    by known key                beyond its bound an alarm, and no more: else whoever knows a key's id could lock its owner out

So a caller behind the same address as an attacker goes on with the key it has been using; one whose key this worker does not
know waits for as long as the attack lasts. A bearer secret that is known passes always: to have it is the proof."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Final, NoReturn

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import FailedAttempts, Network
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.failed_attempts.table import AttemptTable
from ostiary.gateway.phases.admit import is_trusted
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.wire.room import counted_as

log: Final = logging.getLogger("ostiary.gateway.failed_attempts")

# What bounds are meant by.
SPAN_SECONDS: Final = 60.0
# After an alarm about a key it is silent for so long.
_ALARM_SECONDS: Final = 60.0
_NOBODY: Final = "a key that there is not"  # no id has blanks
_DETAIL: Final = "Too many calls with credentials that don't hold came from this address."
_COUNTED: Final = frozenset((ErrorCode.CREDENTIALS_INVALID, ErrorCode.NONCE_REPLAYED))


class Barred(GatewayError):
    """429 for whoever has failed too often."""

    def __init__(self, by: str, seconds: float) -> None:
        wait = str(max(1, math.ceil(seconds)))
        super().__init__(
            ErrorCode.RATE_LIMITED,
            f"too many failed attempts of this {by}",
            detail=_DETAIL,
            headers=(("Retry-After", wait),),
        )
        self.by = by


class Gate:
    """`settings` None lets everyone try. Trusted proxies have no bound: their clients have, where they name them."""

    def __init__(
        self,
        table: AttemptTable,
        *,
        settings: FailedAttempts | None,
        trusted: tuple[Network, ...],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._metrics = metrics
        self._alarms = metrics.counter("key_attack_alarms_total")
        self._clock = clock
        self._trusted = trusted
        self._on = False
        self._address_seconds = self._key_seconds = 0.0
        # Whether a key may be barred somewhere: else a signed call need not ask.
        self.watchful = False
        self.follow(settings, trusted)

    def follow(self, settings: FailedAttempts | None, trusted: tuple[Network, ...]) -> None:
        """Other bounds from now on. What was counted stays counted."""
        self._on = settings is not None
        self._trusted = trusted
        if settings is not None:
            self._address_seconds = SPAN_SECONDS / settings.per_address
            self._key_seconds = SPAN_SECONDS / settings.per_key

    def refresh(self) -> None:
        """To be called some times a second: what other workers have found."""
        self.watchful = self._on and self._table.urgent_until > self._clock()

    def check(self, address: str) -> None:
        """For a credential that this worker does not know. Raises Barred."""
        if self._on:
            self._check(_of_address(address), address, "address")

    def check_key(self, address: str, key_id: str) -> None:
        """For a signature by a key that this worker knows, where `watchful`. Raises Barred."""
        if self._on:
            self._check(_of_pair(address, key_id), address, "address and key")

    def answer_to(self, exchange: Exchange, error: GatewayError) -> GatewayError:
        """What a refused call is answered: the refusal, or that it has to wait. Counts the failure."""
        if not self._on:
            return error
        route = exchange.route
        if isinstance(error, Barred):
            if route is not None:
                route.meters.attempt(exchange.scheme, ErrorCode.RATE_LIMITED.code)
            self._count(error.by)
            return error
        if error.code not in _COUNTED:
            return error
        barred = self.failed(exchange.ip, exchange.claimed_key_id)
        if barred is None:
            return error
        self._count(barred.by)
        return barred

    def failed(self, address: str, key_id: str | None) -> Barred | None:
        """Counts one failure of `address`, with `key_id` if that is a key there is. Why it has to wait, if it has to: it was
        beyond its bound before."""
        now = self._clock()
        seconds = self._address_seconds
        room = SPAN_SECONDS - seconds
        debt = self._table.add(_of_address(address), seconds, now, most=SPAN_SECONDS)
        barred = Barred("address", debt - room) if debt > room else None
        # The time of a refusal must not tell whether there is such a key: for one that there is not the same is done, and
        # adds nothing; for one that there is, what `check` has cost the other.
        known = key_id is not None
        name = key_id if key_id is not None else _NOBODY
        if known:
            self._table.debt(_of_address(address), now)
        self._count_key(name, self._key_seconds if known else 0.0, now)
        pair_seconds = seconds if known else 0.0
        pair_debt = self._table.add(_of_pair(address, name), pair_seconds, now, most=SPAN_SECONDS)
        if known and pair_debt + seconds > room:
            self._table.is_urgent(now + SPAN_SECONDS)
            self.watchful = True
        if barred is not None and self._is_exempt(address):
            return None
        return barred

    def _count_key(self, key_id: str, seconds: float, now: float) -> None:
        mark = hash("key " + key_id)
        debt = self._table.add(mark, seconds, now, most=SPAN_SECONDS)
        if debt < SPAN_SECONDS <= debt + seconds:
            self._table.add(mark, _ALARM_SECONDS, now, most=SPAN_SECONDS + _ALARM_SECONDS)
            self._alarms.add(1)
            log.warning("key_under_attack", extra={"fields": {"key_id": key_id, "per_seconds": int(SPAN_SECONDS)}})

    def _check(self, mark: int, address: str, by: str) -> None:
        room = SPAN_SECONDS - self._address_seconds
        debt = self._table.debt(mark, self._clock())
        if debt > room and not self._is_exempt(address):
            _bar(by, debt - room)

    def _is_exempt(self, address: str) -> bool:
        return bool(self._trusted) and is_trusted(address, self._trusted)

    def _count(self, by: str) -> None:
        self._metrics.counter("failed_attempts_barred_total", by=by).add(1)


def _bar(by: str, seconds: float) -> NoReturn:
    raise Barred(by, seconds)


def _of_address(address: str) -> int:
    return hash("address " + counted_as(address))


def _of_pair(address: str, key_id: str) -> int:
    return hash(f"pair {counted_as(address)} {key_id}")
