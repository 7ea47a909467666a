"""The options of the commands on usage: which calls, and of when."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import click

from ostiary.cli.client import Client, segment

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


class Moment(click.ParamType[str]):
    """A time for the API: RFC 3339, a day, or a span before now (`90m`, `24h`, `7d`)."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if (found := re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", value)) is not None:
            moment = datetime.now(UTC) - int(found[1]) * _UNITS[found[2]]
        else:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                self.fail(f"{value!r} is not like 2030-01-31T00:00:00Z, 2030-01-31, or 24h (before now)", param, ctx)
        if moment.tzinfo is None:
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value) is None:
                self.fail(f"{value!r} has no time zone; add Z for UTC", param, ctx)
            moment = moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def whose_options(function: FunctionT) -> FunctionT:
    """Whose. The command gets the parameters of the API as its keyword `asked`."""

    @click.option("--app", "app_id", metavar="ID", help="Only this app's.")
    @click.option("--org", "--organization", "organization_id", metavar="ID", help="Only this organization's.")
    @click.option("--key", "key_id", metavar="ID", help="Only this key's.")
    @functools.wraps(function)
    def command(
        *arguments: Any, app_id: str | None, organization_id: str | None, key_id: str | None, **options: Any
    ) -> Any:
        asked = {"app_id": app_id, "organization_id": organization_id, "key_id": key_id}
        return function(*arguments, asked=asked, **options)

    return cast("FunctionT", command)


def filter_options(function: FunctionT) -> FunctionT:
    """Which calls. The command gets the parameters of the API as its keyword `asked`."""

    @click.option("--app", "app_id", metavar="ID", help="Only this app's calls.")
    @click.option("--org", "--organization", "organization_id", metavar="ID", help="Only this organization's calls.")
    @click.option("--key", "key_id", metavar="ID", help="Only this key's calls.")
    @click.option("--route", metavar="NAME", help="Only calls of this route.")
    @click.option("--status", metavar="STATUS", help="Only calls with this status, as in 404 or 5xx.")
    @click.option("--environment", type=click.Choice(["live", "test"]), help="Only calls of this environment.")
    @functools.wraps(function)
    def command(
        *arguments: Any,
        app_id: str | None,
        organization_id: str | None,
        key_id: str | None,
        route: str | None,
        status: str | None,
        environment: str | None,
        **options: Any,
    ) -> Any:
        asked = {
            "app_id": app_id,
            "organization_id": organization_id,
            "key_id": key_id,
            "route": route,
            "status": status,
            "environment": environment,
        }
        return function(*arguments, asked=asked, **options)

    return cast("FunctionT", command)


def span_options(function: FunctionT) -> FunctionT:
    """Of when. The command gets the parameters of the API as its keyword `span`."""

    @click.option("--days", type=click.IntRange(1, 366), help="How many days, today included (30 if nothing is given).")
    @click.option(
        "--since", type=Moment(), metavar="TIME", help="From when on: a time, a day, or as in 24h before now."
    )
    @click.option("--until", type=Moment(), metavar="TIME", help="Up to when; now if it is not given.")
    @functools.wraps(function)
    def command(*arguments: Any, days: int | None, since: str | None, until: str | None, **options: Any) -> Any:
        return function(*arguments, span={"days": days, "since": since, "until": until}, **options)

    return cast("FunctionT", command)


def csv_option(function: FunctionT) -> FunctionT:
    return click.option("--csv", "as_csv", is_flag=True, help="Print all of the list as CSV.")(function)


def must_exist(client: Client, asked: dict[str, Any]) -> None:
    """So that a mistyped id is an error, and not a month of zeros. Raises ApiError."""
    if asked["app_id"] is not None:
        client.get(f"/apps/{segment(asked['app_id'])}")
    if asked["organization_id"] is not None:
        client.get(f"/organizations/{segment(asked['organization_id'])}")
