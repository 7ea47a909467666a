"""`ostiary gateway`: the data plane."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from ostiary.cli.configuration import config_option, read_configuration
from ostiary.cli.memory import keep_off_disk
from ostiary.core.config import load_file
from ostiary.core.model import Configuration
from ostiary.gateway.handover import Handover, HandoverError, take_handover
from ostiary.gateway.supervisor import CannotStart, Supervisor
from ostiary.gateway.telemetry import configure_logging


@click.command()
@config_option
def gateway(config_path: str) -> None:
    """Run the data plane: a supervisor, its workers, and the shipper of usage.

    \b
    Signals:
      SIGHUP          read FILE again (a changed file is also noticed by itself)
      SIGUSR2         rolling restart: start what is installed now, worker by worker
      SIGTERM         finish what runs, within gateway.drain, and exit 0
      SIGTERM twice   end at once, exit 1

    \b
    /metrics, /healthz, /readyz and /status are on gateway.admin (127.0.0.1:9090).
    The log is JSON lines on standard error. Exit status: 0, 1 (it failed), 2 (FILE is not valid).

    \b
    Example:
      ostiary config check gateway.yaml && ostiary gateway -c gateway.yaml
    """
    keep_off_disk()
    try:
        handover = take_handover(os.environ)
        configuration = read_configuration(config_path)
        configure_logging("supervisor")
        status = asyncio.run(_supervise(Path(config_path), configuration, handover))
    except (CannotStart, HandoverError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)


async def _supervise(path: Path, configuration: Configuration, handover: Handover | None) -> int:
    beginning = None
    if configuration.published is not None:
        # Not above: a gateway whose routes are its file's needs no client of Postgres in this process.
        from ostiary.gateway.published import CannotBegin, LastGood, begin

        try:
            beginning = await begin(configuration, LastGood(configuration.stores.state))
        except CannotBegin as error:
            raise CannotStart(str(error)) from error
        configuration = beginning.configuration
    return await Supervisor(
        path=path, configuration=configuration, load=load_file, handover=handover, beginning=beginning
    ).run()
