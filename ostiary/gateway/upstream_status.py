"""What /status says of the upstreams. A worker tells it every second, in a message that is bounded: of many targets, those
that something is known of come first, and the rest is a number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ostiary.gateway.upstreams import Member, UpstreamGroup

# About 150 bytes each, names of 64 characters included: well within channel.MESSAGE_BYTES_MAX.
TARGETS_SHOWN_MAX: Final = 500
BREAKERS_SHOWN_MAX: Final = 200


def upstream_status(groups: Iterable[UpstreamGroup]) -> dict[str, list[dict[str, object]]]:
    """By upstream, its targets; those that are out before others where not all have room."""
    shown = [(group.name, member) for group in groups for member in group.members]
    if len(shown) > TARGETS_SHOWN_MAX:
        shown = sorted(shown, key=lambda each: not each[1].health.out)[:TARGETS_SHOWN_MAX]
    status: dict[str, list[dict[str, object]]] = {}
    for name, member in shown:
        status.setdefault(name, []).append(_target(member))
    return status


def _target(member: Member) -> dict[str, object]:
    pool, health = member.pool, member.health
    return {
        "target": pool.target.label,
        "healthy": not health.out,
        "ejected": health.ejected,
        "in_flight": pool.in_flight,
        "waiting": pool.waiting,
    }


def breaker_status(groups: Iterable[UpstreamGroup]) -> dict[str, str]:
    """The state of each breaker, by upstream; those that are not closed before others where not all have room."""
    states = [(group.name, group.guard.breaker_state) for group in groups if group.guard is not None]
    known = [(name, state) for name, state in states if state is not None]
    return dict(sorted(known, key=lambda each: each[1] == "closed")[:BREAKERS_SHOWN_MAX])
