"""claim: is there room to meter this call? Asked under `usage.spool.when_full: block` alone, of calls that are to be metered,
once it is known who calls and before anything is spent on it: no limit hears of a call that is refused here."""

from __future__ import annotations

from ostiary.gateway.exchange import Exchange
from ostiary.gateway.usage import Spool


def is_unmeterable(exchange: Exchange, spool: Spool) -> bool:
    """Sets `claimed` where the call is to be metered and its record has room: then `record` gives the claim up."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    if not route.metered:
        return False
    exchange.claimed = spool.claim()
    return not exchange.claimed
