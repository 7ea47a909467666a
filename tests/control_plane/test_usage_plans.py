"""How Postgres answers questions on usage when there are many calls: what it reads, not how long it takes here."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ostiary.control_plane.db import Connection
from tests.control_plane.support import Api
from tests.support.many_calls import KEYS, fill
from tests.support.usage_plans import check_plans

CALLS_A_DAY, DAYS = 40_000, 5


async def test_questions_read_the_partitions_and_indexes_that_they_need_and_no_more(
    api: Api, connection: Connection
) -> None:
    """A page of the log would read every call of the installation. `scripts/prove usage-queries` has fifty million of them,
    and the times."""
    now = datetime.now(UTC)
    first_day = now.date() - timedelta(days=DAYS - 1)
    filled = fill(connection, calls=CALLS_A_DAY, first_day=first_day, days=DAYS, until=now, minutes_days=3)
    assert [day async for day in filled] == [first_day + timedelta(days=number) for number in range(DAYS)]
    assert len(await check_plans(connection, now)) == 9
    # Made by hand, they agree with each other however they are asked for, through each kind of roll-up.
    for query in ("", "status=503&", "route=route-3&status=4xx&", f"key_id=ak_live_{KEYS // 3:014d}&"):
        since = (now - timedelta(hours=20, minutes=7)).isoformat().replace("+00:00", "Z")
        calls = (await api.get(f"/usage/summary?{query}since={since}")).document["calls"]
        assert calls > 0
        logged = (await api.get(f"/usage/logs?{query}since={since}&limit=100")).document
        assert (logged["total"], len(logged["data"])) == (calls, min(calls, 100))
