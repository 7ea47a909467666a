"""`ostiary usage consume`: bring usage from the stream to Postgres."""

from __future__ import annotations

import asyncio
import logging
import signal

import click

from ostiary.cli.configuration import BadConfiguration, config_option, postgres_of, read_configuration
from ostiary.core.model import Configuration
from ostiary.core.usage import NatsStream
from ostiary.gateway.telemetry import configure_logging
from ostiary.gateway.usage.stream import ClientMissing
from ostiary.gateway.usage.stream.consumer import Consumer
from ostiary.tls import CertificateRefused

_TELL_SECONDS = 60.0

_log = logging.getLogger("ostiary.gateway.usage")


@click.command()
@config_option
def consume(config_path: str) -> None:
    """Write Postgres from the stream that `usage.sink.nats` names.

    Runs until SIGTERM or SIGINT, and then ends when what it has in hand is written. Run several, on any machines: they share
    the work. Killed, its messages go to another after 30 s; nothing is counted twice. Logs JSON on stderr, and its counts
    once a minute. Exit status: 2 for a bad configuration.

    \b
    Example:
      ostiary usage consume -c gateway.yaml
    """
    configuration = read_configuration(config_path)
    settings, postgres_url = stream_of(configuration), postgres_of(configuration)
    configure_logging("consumer")
    try:
        asyncio.run(_run(settings, postgres_url))
    except (ClientMissing, CertificateRefused) as error:
        raise BadConfiguration(str(error)) from error


def stream_of(configuration: Configuration) -> NatsStream:
    """The stream. Raises BadConfiguration if there is none."""
    if configuration.usage.sink is None:
        raise BadConfiguration("usage.sink is postgres, so there is no stream; set usage.sink.nats.servers")
    return configuration.usage.sink


class _Counts:
    """A `ConsumerObserver`, for the log."""

    def __init__(self) -> None:
        self.counts = {"rows": 0, "lost": 0, "repeated": 0, "failures": 0, "quarantined": 0, "waiting": 0}

    def written(self, rows: int, lost: int, repeated: int) -> None:
        for name, count in (("rows", rows), ("lost", lost), ("repeated", repeated)):
            self.counts[name] += count

    def failed(self, kind: str) -> None:
        self.counts["failures"] += 1

    def quarantined(self, messages: int) -> None:
        self.counts["quarantined"] += messages

    def waiting(self, messages: int) -> None:
        self.counts["waiting"] = messages

    def tell(self) -> None:
        _log.info("usage_consumed", extra={"fields": dict(self.counts)})


async def _run(settings: NatsStream, postgres_url: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    counts = _Counts()
    consuming = asyncio.create_task(Consumer(settings=settings, postgres_url=postgres_url, observe=counts).run(stop))
    while not consuming.done():
        await asyncio.wait({consuming}, timeout=_TELL_SECONDS)
        counts.tell()
    consuming.result()
