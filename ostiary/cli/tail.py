"""`ostiary usage tail`: single calls as they come."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta

import click

from ostiary.cli.client import ApiError, Client, Document
from ostiary.cli.table import cell

LOG_COLUMNS = (
    *("occurred_at", "status", "method", "route", "path_template", "latency_ms", "key_id", "ip", "request_id"),
    *("overage", "complete"),
)

POLL_SECONDS = 1.0
# Calls arrive out of order: of several gateways, and after a moment without Postgres. What is later than this is in the log,
# and not shown here.
LATE_SECONDS = 15.0
SHOWN_MAX = 1000  # of one look; beyond that nobody reads along
_SEEN_MAX = 50_000


def follow(client: Client, asked: Document, *, as_json: bool) -> None:
    """Until it is interrupted. Raises ApiError if the first look fails; later ones are tried again."""
    news = News()
    began = datetime.now(UTC)
    news.new(_look(client, asked, began - timedelta(seconds=LATE_SECONDS))[0])  # what was there before
    try:
        while True:
            time.sleep(POLL_SECONDS)
            since = max(began, datetime.now(UTC) - timedelta(seconds=LATE_SECONDS))
            try:
                found, more = _look(client, asked, since)
            except ApiError as error:
                click.echo(error.format_message(), err=True)
                continue
            for call in news.new(found):
                click.echo(json.dumps(call) if as_json else line(call))
            if more:
                click.echo(f"more than {SHOWN_MAX} calls at once; the rest is left out", err=True)
    except KeyboardInterrupt:
        return


class News:
    """Which calls were not there before. It remembers some minutes, and no more than `_SEEN_MAX` calls."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def new(self, calls: list[Document]) -> list[Document]:
        """In order of time."""
        fresh = []
        for call in reversed(calls):
            name = (call["occurred_at"], call["request_id"])
            if name not in self._seen:
                self._seen[name] = None
                fresh.append(call)
        while len(self._seen) > _SEEN_MAX:
            self._seen.popitem(last=False)
        return fresh


def line(call: Document) -> str:
    """One call as a line whose columns stay in place."""
    return "  ".join(
        (
            f"{cell(call['occurred_at']):<27}",
            f"{cell(call['status']):>3}",
            f"{cell(call['method']):<7}",
            f"{call['latency_ms']:>9.1f} ms",
            f"{cell(call['route']):<20}",
            f"{cell(call['path_template']):<30}",
            f"{cell(call['key_id']):<32}",
            cell(call["request_id"]),
        )
    )


def _look(client: Client, asked: Document, since: datetime) -> tuple[list[Document], bool]:
    # A little ahead: the clocks of gateways are not this one's.
    until = datetime.now(UTC) + timedelta(seconds=LATE_SECONDS)
    span = {"since": since.isoformat(), "until": until.isoformat()}
    listing = client.items("/usage/logs", {**asked, **span}, limit=SHOWN_MAX + 1)
    return listing.items[:SHOWN_MAX], len(listing.items) > SHOWN_MAX
