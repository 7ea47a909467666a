"""The section `upstreams`: the services behind the gateway."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Final

from ostiary.core.config import words
from ostiary.core.config.addresses import Origin
from ostiary.core.config.fields import (
    Kind,
    ListOf,
    MapOf,
    Placed,
    Record,
    Schema,
    Values,
    defaulted,
    optional,
    required,
)
from ostiary.core.config.kinds import Choice, Duration, Integer, TextKind, or_reference
from ostiary.core.config.plans import NAME
from ostiary.core.config.reading import REFUSED, Place, Reading, Refused
from ostiary.core.config.target_tls import TLS
from ostiary.core.model import Balance, Health, Retries, Target, Timeouts, Upstream


class _Fault(StrEnum):
    CONNECT = "connect"
    RESET = "reset"


class RetryCause(Kind[str]):
    """`connect`, `reset`, or a status from 500 to 599, as a number."""

    _STATUS: Final = Integer(500, 599)
    _FAULT: Final = Choice(_Fault)

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        if text.value[:1].isdigit():
            status = self._STATUS.read(place, reading)
            return status if isinstance(status, Refused) else str(status)
        fault = self._FAULT.read(place, reading)
        return fault if isinstance(fault, Refused) else fault.value

    def schema(self) -> Schema:
        return or_reference({"anyOf": [self._FAULT.schema(), self._STATUS.schema()]})

    @property
    def words(self) -> str:
        return "`connect`, `reset` or a status from 500 to 599"


_URL = required(
    "url",
    Origin(),
    "Where the server is. Calls keep their own path and query. A name is looked up for every new connection, and all its "
    "addresses are tried. Behind a unix socket `Host` is `localhost`.",
)
_WEIGHT = defaulted("weight", Integer(1, 1000), "Its share of the calls, against the other targets.", 1)


def _target(values: Values) -> Target:
    scheme, host, port = values[_URL]
    return Target(scheme=scheme, host=host, port=port, weight=values[_WEIGHT])


TARGET: Record[Target] = Record("Target", "One server of an upstream.", (_URL, _WEIGHT), _target)

_CONNECT = defaulted("connect", Duration("1ms", "5m"), "Time to connect.", "2s")
_FIRST_BYTE = defaulted("first_byte", Duration("1ms", "1h"), "Time from the request's end to the answer's head.", "15s")
_IDLE = defaulted("idle", Duration("1ms", "1h"), "Longest pause within a body, either way.", "30s")
_UPGRADE_IDLE = defaulted(
    "upgrade_idle",
    Duration("1ms", "24h"),
    "Longest silence of an upgraded connection, both ways; pings end it. Then it is closed.",
    "5m",
)
TIMEOUTS: Record[Timeouts] = Record(
    "Timeouts",
    "How long a target may take.",
    (_CONNECT, _FIRST_BYTE, _IDLE, _UPGRADE_IDLE),
    lambda values: Timeouts(
        connect_seconds=values[_CONNECT],
        first_byte_seconds=values[_FIRST_BYTE],
        idle_seconds=values[_IDLE],
        upgrade_idle_seconds=values[_UPGRADE_IDLE],
    ),
)

_ATTEMPTS = defaulted("attempts", Integer(1, 10), "All tries, the first included; 1 for no retry.", 2)
_ON = optional(
    "on", ListOf(RetryCause(), low=1, high=102), "What is tried again, where that is safe; `[connect]` if not given."
)


def _retries(values: Values) -> Retries:
    causes = values[_ON]
    return Retries(attempts=values[_ATTEMPTS], on=Retries().on if causes is None else frozenset(causes))


RETRIES: Record[Retries] = Record(
    "Retries",
    "When a call is sent to another target. A call that may have had an effect is never sent twice.",
    (_ATTEMPTS, _ON),
    _retries,
)

_PATH = required(
    "path",
    TextKind(r"/[!-~]{0,1023}", "a path such as `/healthz`"),
    "What is asked for, with GET. 2xx and 3xx are healthy.",
)
_EVERY = defaulted("every", Duration("100ms", "1h"), "Time between checks of one target.", "5s")
_UNHEALTHY_AFTER = defaulted("unhealthy_after", Integer(1, 100), "Failures in a row that take a target out.", 3)
_HEALTHY_AFTER = defaulted("healthy_after", Integer(1, 100), "Successes in a row that bring it back.", 2)
HEALTH: Record[Health] = Record(
    "Health",
    "Active checks of each target.",
    (_PATH, _EVERY, _UNHEALTHY_AFTER, _HEALTHY_AFTER),
    lambda values: Health(
        path=values[_PATH],
        every_seconds=values[_EVERY],
        unhealthy_after=values[_UNHEALTHY_AFTER],
        healthy_after=values[_HEALTHY_AFTER],
    ),
)

_TARGETS = required("targets", ListOf(TARGET, low=1, high=1000), "Its servers.")
_BALANCE = defaulted("balance", Choice(Balance), "How a target is chosen.", "round_robin")
_TIMEOUTS = defaulted("timeouts", TIMEOUTS, "How long a target may take.", {})
_RETRIES = defaulted("retries", RETRIES, "When a call is sent to another target.", {})
_HEALTH = optional("health", HEALTH, "Active checks; none if not given.")
_TLS = optional("tls", TLS, "How `https` targets are checked, beyond the system's authorities and their own names.")


def _upstream(values: Values) -> Upstream | Refused:
    targets = values[_TARGETS]
    if not targets:
        return REFUSED  # every target was refused, and told
    servers = {(target.scheme, target.host, target.port) for target in targets}
    if len(servers) < len(targets):
        values.problem(_TARGETS, "two targets are the same server", "leave one, and give it the weight of both")
    if (tls := values[_TLS]) is not None:
        if plain := [target for target in targets if target.scheme != "https"]:
            shown = words.target(replace(plain[0], weight=1))
            return values.problem(
                _TLS, f"is for https targets alone, and {shown} is none", "write https://, or remove it"
            )
        targets = tuple(replace(target, tls=tls) for target in targets)
    return Upstream(
        name=values.place.name,
        targets=targets,
        balance=values[_BALANCE],
        timeouts=values[_TIMEOUTS],
        retries=values[_RETRIES],
        health=values[_HEALTH],
    )


UPSTREAM: Record[Upstream] = Record(
    "Upstream", "A service behind the gateway.", (_TARGETS, _BALANCE, _TIMEOUTS, _RETRIES, _HEALTH, _TLS), _upstream
)
UPSTREAMS = MapOf(NAME, Placed(UPSTREAM), high=100_000, defines="upstream")
