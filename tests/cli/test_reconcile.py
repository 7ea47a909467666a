"""`ostiary usage reconcile`, as an operator and a script see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ostiary.cli.main import main
from ostiary.gateway.usage import Spool, caller_part, encode, route_part


@pytest.fixture
async def configuration(migrated_database: str, tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "version: 1\nroutes: []\n"
        "gateway: {listen: {host: 127.0.0.1, port: 8080}}\n"
        f"stores: {{postgres: '{migrated_database}', spool: {tmp_path / 'spool'}}}\n"
    )
    return path


def _meter(directory: Path, calls: int) -> None:
    spool = Spool(directory=directory, worker="0", bytes_max=1 << 30)
    caller, route = caller_part("ak_test_1", None, None, "test", 1), route_part("clients", "/v1/clients")
    for number in range(calls):
        spool.append(
            encode(caller, route, b"req-%d" % number, 0.0, b"GET", 200, 1, 1, 0, 0, "192.0.2.1", None, False, True)
        )
    spool.close()


def test_books_that_balance_exit_0_with_a_table(configuration: Path, tmp_path: Path) -> None:
    """Without it: a cron job that can't tell."""
    _meter(tmp_path / "spool", 7)
    result = CliRunner().invoke(main, ["usage", "reconcile", "-c", str(configuration)])
    assert result.exit_code == 0, result.output
    assert "Everything is accounted for." in result.output
    all_line = next(line for line in result.output.splitlines() if line.startswith("all "))
    assert all_line.split() == ["all", "7", "0", "7", "0", "0", "0", "0", "0"]


def test_a_missing_call_exits_1_and_json_says_where(configuration: Path, tmp_path: Path) -> None:
    """Without it: lost usage, and a green check."""
    _meter(tmp_path / "spool", 7)
    next((tmp_path / "spool").glob("*.sealed")).unlink()
    result = CliRunner().invoke(main, ["usage", "reconcile", "-c", str(configuration), "--json"])
    assert result.exit_code == 1
    document = json.loads(result.output)
    assert document["holds"] is False
    assert [(run["worker"], run["accepted"], run["missing"]) for run in document["runs"]] == [("0", 7, 7)]


def test_a_spool_that_is_not_here_is_named(configuration: Path) -> None:
    """Without it: run on the wrong machine, and everything seems to balance."""
    result = CliRunner().invoke(main, ["usage", "reconcile", "-c", str(configuration)])
    assert result.exit_code == 1
    assert "there is no spool at" in result.output


def test_a_bad_configuration_exits_2(tmp_path: Path) -> None:
    """The contract: 2 is wrong usage or bad configuration."""
    path = tmp_path / "bad.yaml"
    path.write_text("version: 99\n")
    assert CliRunner().invoke(main, ["usage", "reconcile", "-c", str(path)]).exit_code == 2
