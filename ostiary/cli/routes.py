"""`ostiary routes`: what is published to all gateways, over the control-plane API."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import IO, Any

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import ApiError, Client, Document, api_command, json_option, limit_option
from ostiary.cli.configuration import BadConfiguration
from ostiary.cli.table import cell, table
from ostiary.core.config import ConfigurationError
from ostiary.core.config.load import read_text_of

HISTORY_COLUMNS = ("number", "created_at", "author", "routes", "rolled_back_to", "note")
NODE_COLUMNS = ("host", "node", "state", "version", "since", "seen_at", "ostiary")
ASK_AGAIN_SECONDS = 0.1

_FILE = click.Path(dir_okay=False, path_type=Path)
_BASE = click.option(
    "--base",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Only if this version is in force, as `diff` told it; without it, the one that is in force now.",
)
_NOTE = click.option("--note", help="Why, for the people who will ask; shown in the history.")
_WAIT = click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0, 600),
    default=0.0,
    metavar="SECONDS",
    help="Wait until every gateway runs it; exit status 1 if one does not by then, or refuses it.",
)


class BadDocument(BadConfiguration):
    """A document with mistakes; each is told with its line in `file`. Exit status 2."""

    def __init__(self, file: Path, problem: Document) -> None:
        super().__init__("\n".join(f"{file}:{each['line']}: {each['problem']}" for each in problem["errors"]))

    def show(self, file: IO[Any] | None = None) -> None:
        super().show(file)
        click.echo("nothing was published", file=file, err=file is None)


@click.group()
def routes() -> None:
    """Routes, upstreams, plans and issuers for all gateways, as numbered versions.

    FILE is YAML with `version: 1` and the sections plans, upstreams, routes, issuers and certificates, in the words of the
    configuration file. A gateway takes part whose own file says `routes: {from: control_plane}`.

    \b
    Example:
      ostiary routes diff routes.yaml
      ostiary routes apply routes.yaml --note "scopes for clients" --wait 5
      ostiary routes status
      ostiary routes rollback 41
    """


@routes.command()
@click.argument("file", type=_FILE, required=False)
@click.option("--number", type=click.IntRange(min=1), help="Compare this version of before instead of a FILE.")
@click.option("--exit-code", "as_exit_code", is_flag=True, help="Exit status 1 if there is a difference, for scripts.")
@api_command
@json_option
def diff(client: Client, file: Path | None, number: int | None, as_exit_code: bool, as_json: bool) -> None:
    """Say what applying FILE would change: every difference in meaning, and for how many keys. Changes nothing.

    Comments, order and spelling make no difference. Exit status 0, same or not (see --exit-code); 2 for a FILE with mistakes.

    \b
    Example:
      ostiary routes diff routes.yaml
      ostiary routes diff --number 41
    """
    if (file is None) == (number is None):
        raise click.UsageError("give FILE, or --number")
    found = _compare(client, file, number)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print_changes(found)
        click.echo(_against(found), err=True)
    if as_exit_code and found["changes"]:
        sys.exit(1)


@routes.command()
@click.argument("file", type=_FILE)
@_BASE
@_NOTE
@_WAIT
@api_command
@json_option
def apply(client: Client, file: Path, base: int | None, note: str | None, wait_seconds: float, as_json: bool) -> None:
    """Put FILE in force in all gateways, as the next version; print what that changes.

    What does the same as the version in force makes no new one. Exit status 2 for a FILE with mistakes, which are all told;
    1 if another version came in between: look at it with `ostiary routes diff`, and apply again.

    \b
    Example:
      ostiary routes apply routes.yaml
      ostiary routes apply routes.yaml --base 41 --note "scopes for clients" --wait 5
    """
    found = _compare(client, file, None)
    base = found["base"] if base is None else base
    if base == found["base"] and base > 0 and not found["changes"]:
        _print_made(found, as_json=as_json, told=f"no difference: version {base} does the same, and stays in force")
        return
    made = _asked(client, file, "/routes/versions", {"document": _text(file), "base": base, "note": note})
    _print_made(made, as_json=as_json, told=f"version {made['number']} is published")
    _wait(client, made["number"], wait_seconds)


@routes.command()
@click.argument("number", type=click.IntRange(min=1))
@_BASE
@_NOTE
@_WAIT
@api_command
@json_option
def rollback(
    client: Client, number: int, base: int | None, note: str | None, wait_seconds: float, as_json: bool
) -> None:
    """Put the document of version NUMBER in force again, as the next version; print what that changes.

    \b
    Example:
      ostiary routes history
      ostiary routes rollback 41 --note "clients could not call" --wait 5
    """
    base = _number_in_force(client) if base is None else base
    made = client.post("/routes/rollback", {"number": number, "base": base, "note": note})
    _print_made(made, as_json=as_json, told=f"version {made['number']} is published, with the document of {number}")
    _wait(client, made["number"], wait_seconds)


@routes.command()
@api_command
@limit_option
@json_option
def history(client: Client, limit: int, as_json: bool) -> None:
    """List the versions that were ever in force, newest first.

    \b
    Example:
      ostiary routes history --limit 10
    """
    print_list(client.items("/routes/versions", {}, limit=limit), HISTORY_COLUMNS, as_json=as_json)


@routes.command()
@click.argument("number", type=click.IntRange(min=1), required=False)
@api_command
@json_option
def show(client: Client, number: int | None, as_json: bool) -> None:
    """Print the document in force, or that of version NUMBER, as it was applied.

    \b
    Example:
      ostiary routes show > routes.yaml
      ostiary routes show 41
    """
    found = client.get("/routes" if number is None else f"/routes/versions/{number}")
    click.echo(json.dumps(found, indent=2) if as_json else found["document"], nl=as_json)


@routes.command()
@click.option("--file", type=_FILE, help="Tell how this file differs from the version in force, too.")
@api_command
@json_option
def status(client: Client, file: Path | None, as_json: bool) -> None:
    """Say which version is in force, and which each gateway runs.

    A gateway is current; behind (for less than a second, mostly); refused (it can't take the version, and says why); or
    silent. With --file, drift between the file and what is in force is told.

    \b
    Example:
      ostiary routes status
      ostiary routes status --file routes.yaml
    """
    found = client.get("/routes/status")
    drift = None if file is None else _compare(client, file, None)
    if as_json:
        click.echo(json.dumps(found if drift is None else {**found, "drift": drift}, indent=2))
        return
    current = found["current"]
    if current is None:
        click.echo("no routes have been published yet")
    else:
        by = f"by {cell(current['author'])} at {current['created_at']}"
        click.echo(f"version {current['number']} is in force, with {current['routes']} routes, {by}")
    if found["nodes"]:
        click.echo(table(found["nodes"], NODE_COLUMNS))
    else:
        click.echo("no gateway follows")
    for node in found["nodes"]:
        for problem in node["refused_problems"]:
            click.echo(f"{cell(node['host'])} refuses version {node['refused_version']}: {cell(problem)}")
    if drift is not None and drift["changes"]:
        click.echo(f"\n{file} is not what is in force; applying it would change:")
        _print_changes(drift)
    elif drift is not None:
        click.echo(f"{file} is what is in force")


def _text(file: Path) -> str:
    try:
        return read_text_of(file)
    except ConfigurationError as error:
        raise BadConfiguration(str(error)) from error


def _compare(client: Client, file: Path | None, number: int | None) -> Document:
    if file is None:
        return client.post("/routes/diff", {"number": number})
    return _asked(client, file, "/routes/diff", {"document": _text(file)})


def _asked(client: Client, file: Path, path: str, document: Document) -> Document:
    """Raises BadDocument, and ApiError."""
    try:
        return client.post(path, document)
    except ApiError as error:
        if any("line" in each for each in error.problem.get("errors", ())):
            raise BadDocument(file, error.problem) from error
        raise


def _number_in_force(client: Client) -> int:
    current = client.get("/routes/status")["current"]
    return 0 if current is None else int(current["number"])


def _print_made(document: Document, *, as_json: bool, told: str) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    _print_changes(document)
    click.echo(told)


def _print_changes(document: Document) -> None:
    for warning in document["warnings"]:
        click.echo(f"warning: {cell(warning)}", err=True)
    for change in document["changes"]:
        before, after = cell(change["before"]), cell(change["after"])
        if change["field"] is None:
            click.echo(f"{change['kind']} {cell(change['subject'])}: {after if change['after'] else before}")
        else:
            click.echo(f"changed {cell(change['subject'])}: {change['field']}: {before} -> {after}")
        if change["meaning"]:
            click.echo(f"    {cell(change['meaning'])}")
    if (left_out := document["changes_total"] - len(document["changes"])) > 0:
        click.echo(f"and {left_out} more")
    if not document["changes"]:
        click.echo("no difference: both do the same")


def _against(found: Document) -> str:
    return f"against version {found['base']}" if found["base"] else "against nothing: no version is in force yet"


def _wait(client: Client, number: int, seconds: float) -> None:
    """Until every gateway that can be heard runs version `number`, or a later one. Exit status 1 if one does not in time."""
    deadline = time.monotonic() + seconds
    while seconds:
        found = client.get("/routes/status")
        nodes = [node for node in found["nodes"] if node["state"] != "silent"]
        refusing = [node for node in nodes if node["refused_version"] == number]
        late = [node for node in nodes if (node["version"] or 0) < number]
        if not late and nodes:
            click.echo(f"in force in {len(nodes)} gateway{'' if len(nodes) == 1 else 's'}", err=True)
            return
        if refusing or time.monotonic() > deadline:
            for node in refusing:
                for problem in node["refused_problems"]:
                    click.echo(f"{cell(node['host'])} refuses it: {cell(problem)}", err=True)
            told = f"{len(late)} of {len(nodes)} gateways do not run" if nodes else "no gateway runs"
            raise click.ClickException(f"{told} version {number}; see ostiary routes status")
        time.sleep(ASK_AGAIN_SECONDS)
