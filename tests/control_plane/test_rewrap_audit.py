"""What the audit log is told of wrapping data keys anew."""

from __future__ import annotations

import json

import pytest

from ostiary.control_plane.audit.verify import verify
from ostiary.control_plane.keys.rewrap import Progress
from tests.control_plane.test_rewrap import NEW, OLD, both, run, with_keys
from tests.control_plane.test_rewrap import keys as keys  # a fixture
from tests.gateway.keys.conftest import KeyDatabase


async def test_a_run_is_in_the_audit_log_from_its_beginning_to_its_end(keys: KeyDatabase) -> None:
    """Whoever has a copy of a KEK that went would never be asked for it: nobody would know when, and by whom, every secret
    was wrapped under another."""
    await with_keys(keys, 120)
    await run(keys, both(), dry_run=True)
    assert await keys.connection.fetchval("SELECT count(*) FROM audit_log") == 0

    def end(progress: Progress) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await run(keys, both(), tell=end)
    await run(keys, both())
    await run(keys, both())
    rows = await keys.connection.fetch("SELECT * FROM audit_log ORDER BY number")
    told = [(json.loads(row["before"] or "null"), json.loads(row["after"])) for row in rows]
    under = {"name": "new", "id": NEW.id.hex()}

    def left(data_keys: int) -> dict[str, object]:
        return {"to_rewrap": [{"name": "old", "id": OLD.id.hex(), "data_keys": data_keys}]}

    counts = {"elsewhere": 0, "failed": 0, "under": under}
    assert told == [
        (left(120), {"state": "begun", "under": under}),
        (None, {"state": "broken_off", "rewrapped": 100, **counts}),
        (left(20), {"state": "begun", "under": under}),
        (None, {"state": "ended", "rewrapped": 20, **counts}),
    ], "the last run had nothing to do"
    assert {(row["operation"], row["actor"]) for row in rows} == {("rewrapKeys", "command")}
    assert len({row["request_id"] for row in rows}) == 2, "one of each run"
    verdict = await verify(keys.connection)
    assert (verdict.rows, verdict.finding) == (4, None)
