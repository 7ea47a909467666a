"""`ostiary usage stream`: look at the stream of usage, or make it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import click

from ostiary.cli.configuration import BadConfiguration, config_option, read_configuration
from ostiary.cli.consume import stream_of
from ostiary.core.usage import NatsStream
from ostiary.gateway.usage.sink import SinkFailed
from ostiary.gateway.usage.stream import ClientMissing
from ostiary.gateway.usage.stream.contents import StreamContents, create_stream, read_contents
from ostiary.tls import CertificateRefused

_GIB = 1 << 30


@click.command()
@config_option
@click.option("--create", is_flag=True, help="Make the stream if it is not there.")
@click.option(
    "--max-gib",
    type=click.IntRange(1, 1 << 20),
    default=10,
    show_default=True,
    help="With --create: how large the stream may grow. Past it, gateways keep usage in their spools.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def stream(config_path: str, create: bool, max_gib: int, as_json: bool) -> None:
    """Say what waits in the stream, and whether it is one that loses nothing.

    Exit status: 0 if the stream is there and fit; 1 if not, with what to change, or if NATS can't be asked; 2 for a bad
    configuration.

    \b
    Example:
      ostiary usage stream -c gateway.yaml --create --max-gib 100
      ostiary usage stream -c gateway.yaml --json
    """
    settings = stream_of(read_configuration(config_path))
    try:
        found = asyncio.run(_run(settings, create=create, bytes_max=max_gib * _GIB))
    except (ClientMissing, CertificateRefused) as error:
        raise BadConfiguration(str(error)) from error
    except SinkFailed as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        figures = {name: value for name, value in asdict(found).items() if name not in ("portions", "ended")}
        click.echo(json.dumps({"stream": settings.stream, **figures}, indent=2))
        return
    click.echo(f"stream {settings.stream}: {found.messages} messages, {found.bytes} bytes")
    click.echo(f"in work: {found.in_work}; delivered again: {found.redelivered}")
    if found.foreign:
        click.echo(f"{found.foreign} subjects are none of usage's")
    if not found.consumed:
        click.echo("no consumer has ever asked for them: run `ostiary usage consume`")


async def _run(settings: NatsStream, *, create: bool, bytes_max: int) -> StreamContents:
    if create:
        await create_stream(settings, bytes_max=bytes_max)
    return await read_contents(settings)
