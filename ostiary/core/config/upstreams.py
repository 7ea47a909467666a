"""The section `upstreams`: the services behind the gateway. How they survive bad targets is in `resilience`."""

from __future__ import annotations

from dataclasses import replace

from ostiary.core.config import words
from ostiary.core.config.addresses import Origin
from ostiary.core.config.fields import ListOf, MapOf, Placed, Record, Values, defaulted, optional, required
from ostiary.core.config.hash_by import HASH_BY
from ostiary.core.config.kinds import Choice, Duration, Integer, Percent, TextKind
from ostiary.core.config.plans import NAME
from ostiary.core.config.reading import REFUSED, Refused
from ostiary.core.config.resilience import BREAKER, CONNECTIONS, EJECTION, RETRIES
from ostiary.core.config.target_tls import TLS
from ostiary.core.upstream import Balance, HashBy, Health, Target, Timeouts, Upstream

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
_WHOLE = optional(
    "whole",
    Duration("1ms", "24h"),
    "Time from the first try to the last byte of the answer, further tries included; no bound if not given.",
)
TIMEOUTS: Record[Timeouts] = Record(
    "Timeouts",
    "How long a target may take.",
    (_CONNECT, _FIRST_BYTE, _IDLE, _UPGRADE_IDLE, _WHOLE),
    lambda values: Timeouts(
        connect_seconds=values[_CONNECT],
        first_byte_seconds=values[_FIRST_BYTE],
        idle_seconds=values[_IDLE],
        upgrade_idle_seconds=values[_UPGRADE_IDLE],
        whole_seconds=values[_WHOLE],
    ),
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
_HASH_BY = optional(
    "hash_by", HASH_BY, "What `consistent_hash` goes by: calls with the same go to the same target; `key` if not given."
)
_TIMEOUTS = defaulted("timeouts", TIMEOUTS, "How long a target may take.", {})
_RETRIES = defaulted("retries", RETRIES, "When a call is sent to another target.", {})
_HEALTH = optional("health", HEALTH, "Active checks; none if not given.")
_TLS = optional("tls", TLS, "How `https` targets are checked, beyond the system's authorities and their own names.")
_EJECTION = defaulted("ejection", EJECTION, "Passive checks: targets whose calls fail are left out for a while.", {})
_BREAKER = optional("breaker", BREAKER, "Stops calls to an upstream that fails; none if not given.")
_CONNECTIONS = defaulted("connections", CONNECTIONS, "Connections of one worker to one target.", {})
_PANIC = defaulted(
    "panic_threshold",
    Percent(0, 100),
    "When more than this share of the targets' weight is out, all are used: the rest would fall under the load of all.",
    "50%",
)


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
    balance, hash_by = values[_BALANCE], values[_HASH_BY]
    if hash_by is not None and balance is not Balance.CONSISTENT_HASH:
        values.problem(
            _HASH_BY, f"means nothing with balance: {balance}", "write balance: consistent_hash, or remove hash_by"
        )
    return Upstream(
        name=values.place.name,
        targets=targets,
        balance=balance,
        timeouts=values[_TIMEOUTS],
        retries=values[_RETRIES],
        health=values[_HEALTH],
        hash_by=hash_by or HashBy(),
        ejection=values[_EJECTION],
        breaker=values[_BREAKER],
        connections=values[_CONNECTIONS],
        panic_share=values[_PANIC],
    )


UPSTREAM: Record[Upstream] = Record(
    "Upstream",
    "A service behind the gateway.",
    (
        *(_TARGETS, _TLS, _BALANCE, _HASH_BY, _TIMEOUTS, _RETRIES, _HEALTH),
        *(_EJECTION, _PANIC, _BREAKER, _CONNECTIONS),
    ),
    _upstream,
)
UPSTREAMS = MapOf(NAME, Placed(UPSTREAM), high=100_000, defines="upstream")
