"""`ostiary audit verify`: whoever may do anything in the database, and does it to the log, is seen."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ostiary.cli.main import main
from ostiary.control_plane.audit import AuditLog
from ostiary.control_plane.audit import verify as verifying
from ostiary.control_plane.audit.verify import Wrong, verify
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.access import Actor
from ostiary.control_plane.http.auditing import Entry, Outcome
from ostiary.core.audit_chain import GENESIS, Anchor, parse_anchor
from tests.cli.conftest import ENVIRONMENT, write_configuration

# As a superuser who knows of the second line.
UNGUARDED = "ALTER TABLE audit_log DISABLE TRIGGER ALL; ALTER TABLE audit_log DROP CONSTRAINT audit_log_pkey"


async def _do(connection: Connection, deed: str) -> None:
    await connection.execute(UNGUARDED)
    await connection.execute(deed)


async def _write(connection: Connection, rows: int = 12) -> None:
    for number in range(1, rows + 1):
        entry = Entry(
            actor=Actor("user:1", "Ann \N{GRINNING FACE} \N{LATIN SMALL LETTER E WITH ACUTE}"),
            address=None if number % 3 else "::1",
            request_id=f"r{number}",
            operation="amendThing",
            resource_type="thing",
            resource_id=str(number),
            organization_id=None if number % 2 else "00000000-0000-4000-8000-000000000001",
            outcome=Outcome.DONE,
            before={"share": 0.1, "name": "\u2028\t\u007f", "\ue000": 1, "\U0001f600": 2},
            after={"share": 1e-7, "n": 10**15, "deep": [{"b": None, "a": True}], "whole": 3.0},
        )
        async with connection.transaction():
            await AuditLog().append(connection, entry)


async def test_what_was_written_holds_whatever_is_in_it(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers and characters that Postgres keeps in another form would look like a fraud."""
    monkeypatch.setattr(verifying, "ROWS_AT_ONCE", 5)
    empty = await verify(connection, [Anchor(0, GENESIS)])
    assert (empty.rows, empty.head, empty.finding) == (0, Anchor(0, GENESIS), None)
    await _write(connection)
    verdict = await verify(connection, [Anchor(0, GENESIS), empty.head])
    assert (verdict.rows, verdict.head.number, verdict.anchors_met, verdict.finding) == (12, 12, 2, None)
    assert (await verify(connection, [verdict.head])).finding is None


@pytest.mark.parametrize(
    ("deed", "number", "what"),
    [
        ("UPDATE audit_log SET actor = 'user:2' WHERE number = 5", 5, Wrong.ALTERED),
        ("""UPDATE audit_log SET after = after || '{"n": 1}' WHERE number = 5""", 5, Wrong.ALTERED),
        ("UPDATE audit_log SET before = NULL WHERE number = 5", 5, Wrong.ALTERED),
        ("UPDATE audit_log SET occurred_at = occurred_at - interval '1 us' WHERE number = 1", 1, Wrong.ALTERED),
        ("UPDATE audit_log SET hash = sha256('x') WHERE number = 12", 12, Wrong.ALTERED),
        ("DELETE FROM audit_log WHERE number = 1", 1, Wrong.REMOVED),
        ("DELETE FROM audit_log WHERE number BETWEEN 5 AND 7", 5, Wrong.REMOVED),
        (
            "DELETE FROM audit_log WHERE number = 5; UPDATE audit_log SET number = number - 1 WHERE number > 5",
            5,
            Wrong.REMOVED,
        ),
        ("INSERT INTO audit_log SELECT * FROM audit_log WHERE number = 5", 5, Wrong.INSERTED),
        ("INSERT INTO audit_log SELECT * FROM audit_log WHERE number = 12", 12, Wrong.INSERTED),
        (
            "UPDATE audit_log SET number = number + 1 WHERE number > 5;"
            " CREATE TEMP TABLE one AS SELECT * FROM audit_log WHERE number = 5; UPDATE one SET number = 6;"
            " INSERT INTO audit_log SELECT * FROM one",
            6,
            Wrong.REORDERED,
        ),
        (
            "INSERT INTO audit_log SELECT 13, now(), 'user:2', '', NULL, 'r', 'amendThing', 'thing', '1', NULL, 'done', NULL,"
            " NULL, NULL, hash, sha256('x') FROM audit_log WHERE number = 12",
            13,
            Wrong.ALTERED,
        ),
        ("UPDATE audit_log SET number = 15 - number WHERE number IN (7, 8)", 7, Wrong.REORDERED),
        ("UPDATE audit_log SET number = 12 - number WHERE number IN (1, 11)", 1, Wrong.REORDERED),
    ],
)
async def test_what_was_altered_removed_inserted_or_moved_is_found(
    connection: Connection, deed: str, number: int, what: Wrong
) -> None:
    """The log would prove nothing against those who run the database."""
    await _write(connection)
    await _do(connection, deed)
    verdict = await verify(connection)
    assert verdict.finding is not None
    assert (verdict.finding.number, verdict.finding.what) == (number, what), verdict.finding.says
    assert verdict.rows == verdict.head.number == (number if what is Wrong.INSERTED else number - 1)


async def test_a_row_with_a_hash_that_fits_does_not_fit_the_next(connection: Connection) -> None:
    """Whoever knows how the hash is made could alter a row and make it anew."""
    await _write(connection)
    other = Entry(
        actor=Actor("user:2", ""),
        address=None,
        request_id="r",
        operation="amendThing",
        resource_type="thing",
        resource_id="5",
        organization_id=None,
        outcome=Outcome.DONE,
    )
    await connection.execute("CREATE TEMP TABLE later AS SELECT * FROM audit_log WHERE number > 4")
    await _do(connection, "DELETE FROM audit_log WHERE number > 4")
    async with connection.transaction():
        await AuditLog().append(connection, other)
    await connection.execute("INSERT INTO audit_log SELECT * FROM later WHERE number > 5")
    verdict = await verify(connection)
    assert verdict.finding is not None
    assert (verdict.finding.number, verdict.finding.what) == (6, Wrong.INSERTED)
    assert "row 5 was altered" in verdict.finding.says


async def test_only_an_anchor_sees_that_the_end_is_gone_or_all_of_it_was_made_anew(connection: Connection) -> None:
    """Rows that are wanted gone are mostly the last ones."""
    await _write(connection)
    anchor = (await verify(connection)).head
    early = Anchor(3, await connection.fetchval("SELECT hash FROM audit_log WHERE number = 3"))
    await _do(connection, "DELETE FROM audit_log WHERE number > 9")
    assert (await verify(connection)).finding is None, "if this is seen without an anchor, say so in the documents"
    cut = await verify(connection, [anchor, early])
    assert cut.finding is not None
    assert (cut.finding.number, cut.finding.what, cut.anchors_met) == (10, Wrong.CUT_OFF, 1)
    await _write(connection, 3)
    assert (await verify(connection)).finding is None
    anew = await verify(connection, [early, anchor])
    assert anew.finding is not None
    assert (anew.finding.number, anew.finding.what) == (12, Wrong.WRITTEN_ANEW)


@pytest.mark.parametrize(
    "text", ["", "1", "1:", "x:" + "00" * 32, "1:" + "0" * 63, "-1:" + "00" * 32, "0:" + "01" * 32]
)
def test_an_anchor_that_is_none_is_refused(text: str) -> None:
    """A line of the wrong file would be taken for an anchor that was met."""
    with pytest.raises(ValueError, match=r"anchor|hash"):
        parse_anchor(text)


def _run(*arguments: str, exit_code: int) -> Result:
    result = CliRunner().invoke(main, ["audit", "verify", *arguments], env=ENVIRONMENT)
    assert result.exit_code == exit_code, f"{result.output}{result.stderr}"
    return result


async def test_the_command_says_so_and_ends_with_0_1_or_2(
    connection: Connection, database: str, tmp_path: Path
) -> None:
    """A script would go on with a log that does not hold."""
    file = str(write_configuration(tmp_path / "gateway.yaml", database))
    await _write(connection, 5)
    holds = await asyncio.to_thread(_run, "-c", file, exit_code=0)
    assert "5 rows" in holds.stdout
    assert "No anchor" in holds.stdout
    head = (await verify(connection)).head
    with_anchor = await asyncio.to_thread(_run, "-c", file, "--head", str(head), "--json", exit_code=0)
    document = json.loads(with_anchor.stdout)
    assert document["holds"] is True
    assert document["anchors"] == {"given": 1, "met": 1}
    await asyncio.to_thread(_run, "-c", file, "--head", "5", exit_code=2)
    await _do(connection, "UPDATE audit_log SET actor_name = 'x' WHERE number = 2")
    broken = await asyncio.to_thread(_run, "-c", file, exit_code=1)
    assert broken.stdout.startswith("ALTERED: row 2")
    document = json.loads((await asyncio.to_thread(_run, "-c", file, "--json", exit_code=1)).stdout)
    assert (document["holds"], document["finding"]["what"], document["rows"]) == (False, "altered", 1)
