"""`ostiary demo`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import click

from ostiary.cli.memory import keep_off_disk


@click.command()
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep Postgres, Valkey and the secrets there: keys made in one run work in the next. Default: nothing is kept.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the gateway.  [default: 8080, or a free one]")
@click.option(
    "--control-port", type=click.IntRange(1, 65535), help="Port of the control plane.  [default: 8081, or a free one]"
)
@click.option(
    "--admin-port", type=click.IntRange(1, 65535), help="Port of metrics and health.  [default: 9090, or a free one]"
)
def demo(data: Path | None, port: int | None, control_port: int | None, admin_port: int | None) -> None:
    """Run everything on this machine, with nothing else installed.

    Starts a real Postgres and a real Valkey from Python wheels, a sample API to put the gateway before, the control plane
    and the gateway; makes keys, and prints curl lines to paste. Everything listens on this machine alone. Ctrl-C ends it
    and leaves nothing behind.

    \b
    Example:
      pip install "ostiary[demo]"
      ostiary demo
      ostiary demo --data ./demo-data --port 8000
    """
    started_at = time.monotonic()  # the imports below are part of what the user waits for
    from ostiary.control_plane.db import DatabaseUnavailable, MigrationError
    from ostiary.demo.children import ChildFailed
    from ostiary.demo.ports import PortTaken, RequestedPorts
    from ostiary.demo.provisioning import ProvisioningFailed
    from ostiary.demo.run import DirectoryRefused, Options, run_demo
    from ostiary.demo.stores import MissingWheels, StoreFailed

    keep_off_disk()
    options = Options(
        data=data,
        ports=RequestedPorts(gateway=port, control_plane=control_port, admin=admin_port),
        started_at=started_at,
    )
    try:
        asyncio.run(run_demo(options, click.echo))
    except (PortTaken, DirectoryRefused) as error:
        click.echo(f"ostiary demo: {error}", err=True)
        sys.exit(2)
    except (
        *(MissingWheels, StoreFailed, ChildFailed, ProvisioningFailed),
        *(DatabaseUnavailable, MigrationError, LookupError, OSError),
    ) as error:
        click.echo(f"ostiary demo: {error}", err=True)
        sys.exit(1)
