"""Reading the configuration file for a command: `-c FILE`, all problems on stderr, exit status 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from ostiary.core.config import ConfigurationError, load_file
from ostiary.core.model import Configuration

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class BadConfiguration(click.ClickException):
    """The configuration can't be used; one line a problem. Exit status 2, as for wrong usage."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.message.splitlines():
            click.echo(f"error: {line}", file=file, err=file is None)


def config_option(function: FunctionT) -> FunctionT:
    """Adds `-c/--config FILE`; the command gets it as `config_path`."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        metavar="FILE",
        required=True,
        type=click.Path(dir_okay=False),
        help="The configuration file (YAML).",
    )(function)


def read_configuration(path: str | Path) -> Configuration:
    """The checked configuration; its warnings go to stderr. Raises BadConfiguration with every problem."""
    try:
        configuration = load_file(Path(path))
    except ConfigurationError as error:
        raise BadConfiguration(str(error)) from error
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}", err=True)
    return configuration


def postgres_of(configuration: Configuration) -> str:
    """The URL of the database. Raises BadConfiguration if there is none."""
    if configuration.stores.postgres is None:
        raise BadConfiguration("stores.postgres is not set; set it to postgresql://user@host/database")
    return configuration.stores.postgres
