"""What the tests of the stream share: a gateway's side of it and Postgres' side, in one process, each told what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage.stream.consumer import Consumer


@dataclass
class ConsumerObserved:
    """Remembers what a consumer told."""

    rows: int = 0
    lost: int = 0
    repeated: int = 0
    failures: list[str] = field(default_factory=list)
    quarantines: int = 0
    waiting_last: int = 0

    def written(self, rows: int, lost: int, repeated: int) -> None:
        self.rows += rows
        self.lost += lost
        self.repeated += repeated

    def failed(self, kind: str) -> None:
        self.failures.append(kind)

    def quarantined(self, messages: int) -> None:
        self.quarantines += messages

    def waiting(self, messages: int) -> None:
        self.waiting_last = messages


def consumer_of(
    settings: NatsStream, postgres_url: str, observed: ConsumerObserved | None = None, *, batch_max: int = 8
) -> Consumer:
    observe = observed or ConsumerObserved()
    return Consumer(settings=settings, postgres_url=postgres_url, observe=observe, batch_max=batch_max)


async def consume_all(consumer: Consumer) -> int:
    """Until nothing is there; the messages taken."""
    total = 0
    while taken := await consumer.consume(wait_seconds=0.2):
        total += taken
    return total


def set_aside(settings: NatsStream) -> list[bytes]:
    """What is in the quarantine, by number in the stream."""
    paths = sorted(Path(settings.quarantine).glob("*.message"))
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths)
    return [path.read_bytes() for path in paths]
