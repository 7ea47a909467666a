"""`ostiary usage reconcile`: prove that no metered call was lost and none counted twice."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import click

from ostiary.cli.configuration import BadConfiguration, config_option, read_configuration
from ostiary.gateway.usage.reconcile import Reconciliation, RunBalance, RunPlace
from ostiary.gateway.usage.reconcile import reconcile as compare
from ostiary.gateway.usage.sink import SinkFailed
from ostiary.gateway.usage.stream import ClientMissing

_COLUMNS = ("accepted", "written", "spooled", "streamed", "dropped", "lost", "missing", "surplus")


@click.command()
@config_option
@click.option("--days", type=click.IntRange(min=0), help="Count single rows of the last DAYS days only; default: all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def reconcile(config_path: str, days: int | None, as_json: bool) -> None:
    """Prove that accepted = written + spooled + streamed + dropped + lost.

    Compares what each worker counted with what is in the spool, in the stream if there is one, and in Postgres. Safe on a
    running gateway: it changes nothing. Exit status: 0 if everything is accounted for, 1 if not or if it could not be told,
    2 for a bad configuration.

    \b
    Example:
      ostiary usage reconcile -c gateway.yaml
      ostiary usage reconcile -c gateway.yaml --days 7 --json
    """
    configuration = read_configuration(config_path)
    stores = configuration.stores
    if stores.postgres is None:
        raise BadConfiguration("stores.postgres is not set: without it usage is not shipped, only spooled")
    if not Path(stores.spool).is_dir():
        click.echo(f"there is no spool at {stores.spool}; run this on the gateway's machine, as its user", err=True)
        sys.exit(1)
    since = None if days is None else (datetime.now(UTC) - timedelta(days=days)).date()
    try:
        result = asyncio.run(compare(Path(stores.spool), stores.postgres, since=since, stream=configuration.usage.sink))
    except ClientMissing as error:
        raise BadConfiguration(str(error)) from error
    except SinkFailed as error:
        click.echo(f"the stream can't be read: {error}", err=True)
        sys.exit(1)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # Only Postgres' own words: others may quote the URL, and with it a password.
        reason = str(error) if isinstance(error, asyncpg.PostgresError) else type(error).__name__
        click.echo(f"the spool or Postgres can't be read: {reason}", err=True)
        sys.exit(1)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else render(result))
    sys.exit(0 if result.holds else 1)


def render(result: Reconciliation) -> str:
    """The table for people: runs that are still under way or don't add up, the total, and what disagrees."""
    shown = [run for run in result.runs if run.place is not RunPlace.ENDED or not run.holds]
    lines = [f"{'worker':<12} {'run':<9} {'place':<10}" + "".join(f"{name:>13}" for name in _COLUMNS)]
    lines += [_row(run.worker, run.run_id[:8], run.place, _figures(run)) for run in shown]
    ended = [run for run in result.runs if run not in shown]
    if ended:
        lines.append(_row(f"{len(ended)} runs", "", "ended", _sum(ended)))
    lines.append(_row("all", "", "", _sum(list(result.runs))))
    lines.append(
        f"rows in Postgres: {result.written_by_runs} by runs, {result.written_by_segments} by segments, "
        f"{result.rolled_up} by daily roll-ups"
    )
    if (stream := result.stream) is not None:
        lines.append(
            f"in the stream {stream.name}: {stream.calls} calls; {stream.messages} messages, {stream.bytes} bytes, "
            f"{stream.in_work} of them in work, {stream.redelivered} delivered again"
        )
    lines += [f"{day.day}: {day.rows} rows, but {day.rolled_up} rolled up" for day in result.days]
    lines += [f"quarantined: {name}" for name in result.quarantined]
    lines.append("Everything is accounted for." if result.holds else "NOT everything is accounted for.")
    return "\n".join(lines)


def _figures(run: RunBalance) -> list[int]:
    return [int(getattr(run, name)) for name in _COLUMNS]


def _sum(runs: list[RunBalance]) -> list[int]:
    return [sum(column) for column in zip(*map(_figures, runs), strict=True)] or [0] * len(_COLUMNS)


def _row(worker: str, run: str, place: str, figures: list[int]) -> str:
    return f"{worker:<12} {run:<9} {place:<10}" + "".join(f"{figure:>13}" for figure in figures)
