"""`ostiary config`: check, explain, compare and describe configuration files. Nothing here starts or changes anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import click

from ostiary.core.config import ConfigurationError, load_file
from ostiary.core.config.difference import compare
from ostiary.core.config.explanation import Explanation, UnreadableUrl
from ostiary.core.config.explanation import explain as explain_call
from ostiary.core.config.schema import json_schema, reference
from ostiary.core.model import Configuration

_FILE = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@click.group()
def config() -> None:
    """Check, explain and compare configuration files.

    \b
    Example:
      ostiary config check gateway.yaml
      ostiary config explain gateway.yaml GET https://api.example.com/v1/clients
      ostiary config diff running.yaml next.yaml
    """


@config.command()
@click.argument("file", type=_FILE)
@_JSON
def check(file: Path, as_json: bool) -> None:
    """Say whether FILE would be accepted, or name every mistake in it with its line.

    Warnings are mistakes that a file may have; they do not refuse it. Exit status 2 for a file that is refused.

    \b
    Example:
      ostiary config check gateway.yaml
    """
    try:
        configuration = load_file(file)
    except ConfigurationError as error:
        if as_json:
            fields = ("file", "line", "column", "path", "message", "mend")
            problems = [{name: getattr(problem, name) for name in fields} for problem in error.problems]
            click.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
        _refuse(error)
    counts = {
        "routes": len(configuration.routes),
        "upstreams": len(configuration.upstreams),
        "plans": len(configuration.plans),
        "keys": len(configuration.keys),
    }
    if as_json:
        click.echo(json.dumps({"ok": True, **counts, "warnings": list(configuration.warnings)}, indent=2))
        return
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("ok: " + ", ".join(f"{count} {name if count != 1 else name[:-1]}" for name, count in counts.items()))


@config.command()
@click.argument("file", type=_FILE)
@click.argument("method")
@click.argument("url")
@click.option("--header", "-H", "headers", multiple=True, help="A header of the call, as in 'Host: api.example.com'.")
@_JSON
def explain(file: Path, method: str, url: str, headers: tuple[str, ...], as_json: bool) -> None:
    """Say which route of FILE takes a call, why the others do not, and what awaits the caller there.

    URL is whole, or a path; then the host is that of --header. A credential in a header is looked up among the keys of
    FILE; it is not verified and not shown. Arguments can be seen by others on this machine: give the id of a key
    ('X-Api-Key: ak_live_1:') rather than a secret, and of a token its first two parts and '.AA'.

    \b
    Example:
      ostiary config explain gateway.yaml POST https://api.example.com/v1/clients -H 'X-Api-Key: ak_test_abc123:'
    """
    configuration = _load(file)
    named: dict[str, str] = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.UsageError("a header is written 'Name: value'")
        named[name.strip().lower()] = value.strip()
    try:
        explanation = explain_call(configuration, method, url, named)
    except UnreadableUrl as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps(_explanation_json(explanation), indent=2))
    else:
        _print_explanation(explanation)


def _explanation_json(explanation: Explanation) -> dict[str, object]:
    return {
        "answer": explanation.answer,
        "route": explanation.route,
        "why": explanation.why,
        "parameters": dict(explanation.parameters),
        "facts": dict(explanation.facts),
        "others": [{"route": other.route, "reason": other.reason} for other in explanation.others],
        "unfit": explanation.unfit,
    }


def _print_explanation(explanation: Explanation) -> None:
    click.echo(f"{explanation.route or explanation.answer}: {explanation.why}")
    for name, value in explanation.parameters.items():
        click.echo(f"  {{{name}}}: {value}")
    for name, value in explanation.facts.items():
        click.echo(f"  {name}: {value}")
    if explanation.others or explanation.unfit:
        click.echo("not:")
    for other in explanation.others:
        click.echo(f"  {other.route}: {other.reason}")
    if explanation.unfit:
        click.echo(f"  {explanation.unfit} more, whose path does not fit")


@config.command()
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@_JSON
def diff(before: Path, after: Path, as_json: bool) -> None:
    """Say what changing from BEFORE to AFTER would do: every field that differs, and what callers would notice.

    Comments, order and spelling make no difference. Secrets are compared and never shown. Exit status 0, same or not.

    \b
    Example:
      ostiary config diff running.yaml next.yaml
    """
    changes = compare(_load(before), _load(after))
    if as_json:
        click.echo(json.dumps([change._asdict() for change in changes], indent=2))
    elif not changes:
        click.echo("no difference: both do the same")
    else:
        for change in changes:
            click.echo(str(change))


@config.command()
@click.option("--markdown", is_flag=True, help="Print the reference of all fields instead, in Markdown.")
def schema(markdown: bool) -> None:
    """Print the JSON Schema (2020-12) of the configuration file, for editors.

    \b
    Example, and the first line of a file that an editor is to check with it:
      ostiary config schema > schema.json
      # yaml-language-server: $schema=schema.json
    """
    click.echo(reference().rstrip() if markdown else json.dumps(json_schema(), indent=2))


def _load(file: Path) -> Configuration:
    try:
        return load_file(file)
    except ConfigurationError as error:
        _refuse(error)


def _refuse(error: ConfigurationError) -> NoReturn:
    click.echo(str(error), err=True)
    sys.exit(2)
