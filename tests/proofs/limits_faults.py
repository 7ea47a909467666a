"""Proof: whatever is wrong with Redis, for as long as it takes, each route does what it chose, no call waits for Redis once
that is known, and all is as before within two seconds of its end.

`ostiary gateway` with two workers, a proxy between it and Valkey, three processes of callers on routes of every kind. For
each fault in turn: a while of good load, the fault, a while after it."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.callers import Call, Callers, broken
from tests.endurance.judging import moments_of, most_within
from tests.endurance.origin import running_origin
from tests.endurance.redis_faults import FAULTS, Fault, Place
from tests.endurance.site import Site, fresh_database
from tests.endurance.test_redis_away import (
    ADDED_SECONDS_MAX,
    DEADLINE_SECONDS,
    RECOVERED_WITHIN_SECONDS,
    Outage,
    assert_each_route_got_what_it_chose,
    p99,
    states,
    store_failures,
    streams,
)
from tests.support.directories import directory_for_all
from tests.support.fault_proxy import fault_proxy_in_thread
from tests.support.gateway_process import GatewayProcess, eventually, wait_seconds
from tests.support.spans import most_in_any_span

LIMIT = 100  # a second, of the stream `limited`
BEFORE_SECONDS = 10.0
AFTER_SECONDS = 4.0
# In which a loss may have let a second begin anew: the second, and how much later than it was the loss was seen.
LOSS_SECONDS = 1.2


def prove(fault: Fault, directory: Path, postgres: EmbeddedPostgres, callers: Callers, *, seconds: float) -> list[str]:
    """One fault at a site of its own; what failed."""
    directory.mkdir(mode=0o711)
    with (
        EmbeddedValkey(directory / "valkey") as valkey,
        fault_proxy_in_thread("127.0.0.1", valkey.port) as proxy,
        running_origin(directory) as origin,
    ):
        site = Site(
            directory,
            postgres=fresh_database(postgres),
            redis=f"redis://127.0.0.1:{proxy.port}/0",
            origin_port=origin.port,
            workers=2,
            # Where Redis goes on deciding, a pause of a busy machine must not look like one that does not.
            redis_deadline=f"{DEADLINE_SECONDS * 1000:g}ms" if fault.away else "1s",
        )
        with site.gateway() as gateway:
            eventually(lambda: states(gateway) == {"connected"}, "both workers are connected")
            callers.start(streams(site, gateway))
            wait_seconds(BEFORE_SECONDS)
            outage, lost_ns = _outage(fault, Place(valkey, proxy), gateway, seconds)
            wait_seconds(AFTER_SECONDS)
            calls = callers.stop()
            failures = _judge(fault, calls, outage)
            failures += [] if states(gateway) == {"connected"} else ["not connected after it"]
            limited = moments_of(
                [call for call in calls if call.stream == "limited" and call.status == 200], origin.arrivals()
            )
            noted = store_failures(gateway)
    most = most_within(limited, 1)
    lost = most_in_any_span(lost_ns, int(LOSS_SECONDS * 1e9))
    print(
        f"  at most {most} in any second, of {LIMIT}; forgotten {len(lost_ns)} times, at most {lost} in a second; "
        f"{noted:.0f} failures of Redis were counted",
        flush=True,
    )
    if most > (1 + lost) * LIMIT:
        failures.append(f"{most} calls in a second")
    if fault.away and noted < 2:
        failures.append("the metrics do not show it")
    return [f"{fault.name}: {failure}" for failure in failures]


def _outage(fault: Fault, place: Place, gateway: GatewayProcess, seconds: float) -> tuple[Outage, list[int]]:
    """The outage, and the moments after which a limit may have begun anew."""
    began_ns = noticed_ns = time.monotonic_ns()
    with fault.make(place) as lost_ns:
        if fault.away:
            eventually(lambda: states(gateway) == {"away"}, f"{fault.name}: both workers say that Redis is away")
            noticed_ns = time.monotonic_ns()
        wait_seconds(seconds)
        ended_ns = time.monotonic_ns()
    # The workers' shares begin unused, and what they admitted Redis does not know.
    turns = [began_ns, ended_ns] if fault.away else []
    return Outage(began_ns, noticed_ns, ended_ns), sorted(lost_ns + turns)


def _judge(fault: Fault, calls: Sequence[Call], outage: Outage) -> list[str]:
    failures = [f"{len(cut)} calls were not answered: {cut[0]}"] if (cut := broken(calls)) else []
    if fault.away:
        failures += _failed(lambda: assert_each_route_got_what_it_chose(calls, outage))
    else:
        wrong = Counter((call.stream, call.status) for call in calls if call.status not in _answers_of(call.stream))
        if wrong:
            failures.append(f"Redis was there, and these were not decided by it: {dict(wrong)}")
    before = [call for call in calls if call.stream in {"roomy", "open"} and call.ended_ns < outage.began_ns]
    during = outage.calls(calls, "roomy") + outage.calls(calls, "open")
    # Against the same load before, or against calls without limits at the same time, which have the same machine: what others
    # take from it is not Redis's doing.
    added = p99(during) - max(p99(before), p99(outage.calls(calls, "free")))
    if added > ADDED_SECONDS_MAX:
        failures.append(f"Redis adds {added * 1e3:.1f} ms to the p99")
    waiting = max(call.seconds for call in calls if outage.began_ns < call.ended_ns < outage.ended_ns)
    last = max((call.ended_ns for call in calls if call.status == 503), default=0)
    recovered = max(0.0, (last - outage.ended_ns) / 1e9)
    if recovered > RECOVERED_WITHIN_SECONDS:
        failures.append(f"recovered only after {recovered:.2f} s")
    told = Counter((call.stream, call.status) for name in NAMES for call in outage.calls(calls, name))
    print(
        f"{fault.name:14} {(outage.ended_ns - outage.began_ns) / 1e9:.0f} s, noticed after "
        f"{(outage.noticed_ns - outage.began_ns) / 1e9:.2f} s   p99 {p99(before) * 1e3:.1f} ms before, "
        f"{p99(during) * 1e3:.1f} ms then ({p99(outage.calls(calls, 'free')) * 1e3:.1f} ms without limits), slowest "
        f"{waiting * 1e3:.0f} ms   last 503 {recovered:.2f} s after it"
    )
    print("  " + ", ".join(f"{name} {status}: {count}" for (name, status), count in sorted(told.items())))
    return failures


def _answers_of(stream: str) -> set[int]:
    return {200, 429} if stream == "limited" else {200}


NAMES = ("limited", "roomy", "open", "closed", "free")


def _failed(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except AssertionError as error:
        return [str(error) or "a route did not get what it chose"]
    return []


def main() -> None:
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(prog="scripts/prove limits-faults", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(names)} (default all)")
    parser.add_argument("--seconds", type=float, default=30, help="of each fault (default 30)")
    chosen = parser.parse_args()
    if unknown := set(chosen.faults) - set(names):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    callers = Callers(3)
    failures: list[str] = []
    with directory_for_all() as directory, EmbeddedPostgres(directory / "postgres") as postgres:
        for fault in FAULTS:
            if not chosen.faults or fault.name in chosen.faults:
                failures += prove(fault, directory / fault.name, postgres, callers, seconds=chosen.seconds)
    callers.close()
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
