"""`ostiary audit verify`: prove that no row of the audit log was altered, removed, inserted or moved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import click

from ostiary.cli.configuration import config_option, postgres_of, read_configuration
from ostiary.control_plane.audit.verify import Verdict, connected
from ostiary.control_plane.audit.verify import verify as walk
from ostiary.control_plane.db import DatabaseUnavailable
from ostiary.core.audit_chain import Anchor, parse_anchor


class _AnchorType(click.ParamType[Anchor]):
    name = "anchor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Anchor:
        if isinstance(value, Anchor):
            return value
        try:
            return parse_anchor(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@config_option
@click.option(
    "--head",
    "anchors",
    type=_AnchorType(),
    multiple=True,
    metavar="NUMBER:HASH",
    help="A row that `ostiary audit head` printed earlier and that was kept elsewhere; may be given more than once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def verify(config_path: str, anchors: tuple[Anchor, ...], as_json: bool) -> None:
    """Walk the hash chain of the audit log, and tell of the first row that was altered, removed, inserted or moved.

    Without --head it can't be seen that rows are missing at the end, or that the whole log was written anew. Changes nothing;
    safe while the control plane runs. Exit status: 0 if all is as it was written, 1 if not or if it could not be told, 2 for
    wrong usage or a bad configuration.

    \b
    Example:
      ostiary audit verify -c gateway.yaml
      ostiary audit verify -c gateway.yaml --head "$(tail -n 1 /elsewhere/anchors)"
    """
    url = postgres_of(read_configuration(config_path))
    try:
        verdict = asyncio.run(_run(url, anchors))
    except DatabaseUnavailable as error:
        raise click.ClickException(str(error)) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        # Only Postgres' own words: others may quote the URL, and with it a password.
        reason = str(error) if isinstance(error, asyncpg.PostgresError) else type(error).__name__
        raise click.ClickException(f"the audit log can't be read: {reason}; is `ostiary db migrate` done?") from error
    click.echo(json.dumps(_document(verdict, anchors), indent=2) if as_json else _told(verdict, anchors))
    if verdict.finding is not None:
        raise click.exceptions.Exit(1)


async def _run(url: str, anchors: Sequence[Anchor]) -> Verdict:
    async with connected(url) as connection:
        return await walk(connection, anchors)


def _document(verdict: Verdict, anchors: Sequence[Anchor]) -> dict[str, object]:
    finding = verdict.finding
    return {
        "holds": finding is None,
        "rows": verdict.rows,
        "head": {"number": verdict.head.number, "hash": verdict.head.hash.hex()},
        "anchors": {"given": len(anchors), "met": verdict.anchors_met},
        "finding": None
        if finding is None
        else {"number": finding.number, "what": finding.what.value, "says": finding.says},
    }


def _told(verdict: Verdict, anchors: Sequence[Anchor]) -> str:
    if verdict.finding is not None:
        what = verdict.finding.what.value.upper().replace("_", " ")
        return f"{what}: {verdict.finding.says}. {verdict.rows} rows before it hold."
    lines = [f"{verdict.rows} rows, each as it was written. Head: {verdict.head}"]
    if anchors:
        lines.append(f"{len(anchors)} anchor{'s' if len(anchors) > 1 else ''} met.")
    else:
        lines.append("No anchor was given (--head): rows missing at the end would not have been seen.")
    return "\n".join(lines)
