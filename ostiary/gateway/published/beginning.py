"""Which version a gateway begins with: the one in force in Postgres, or, where that can't be had or can't be taken, the last
one that it ran. With neither it does not start: to answer 404 to everyone is worse than to be seen not to run."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from enum import StrEnum

from ostiary.core.model import Configuration
from ostiary.core.published import RouteVersion
from ostiary.followed import Refused
from ostiary.gateway.published import store
from ostiary.gateway.published.last_good import LastGood, SnapshotUnusable
from ostiary.gateway.reload import RefusedVersion, complete

log = logging.getLogger("ostiary.gateway.supervisor")

# For Postgres to answer at a start. Longer, and an outage of Postgres would be one of every restart.
ASK_SECONDS = 5.0


class CannotBegin(Exception):
    """There is no version to begin with; the text says why and what to do."""


class Origin(StrEnum):
    """Where the version in force came from."""

    POSTGRES = "postgres"
    DISK = "disk"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Beginning:
    """`configuration` is complete: the host's own (`host`) with `version`, None if nothing was ever published. `refused` is a
    newer version that can't be taken here, with the reasons."""

    host: Configuration
    configuration: Configuration
    last_good: LastGood
    version: RouteVersion | None = None
    origin: Origin = Origin.NOWHERE
    refused: RefusedVersion | None = None


async def begin(host: Configuration, last_good: LastGood) -> Beginning:
    """What a gateway with this file begins with. Raises CannotBegin."""
    postgres = host.stores.postgres
    assert postgres is not None  # noqa: S101  a file with published routes has it
    try:
        newest = await _newest(postgres)
    except Exception as error:  # whatever it is, it must not keep a gateway with a snapshot from starting
        reason = store.describe(error)
        log.error("routes_not_asked_for", extra={"fields": {"reason": reason}})
        return _from_disk(host, last_good, f"Postgres could not be asked for the routes ({reason})")
    if newest is None:
        return _from_disk_or_nothing(host, last_good)
    try:
        return Beginning(host, complete(host, newest), last_good, newest, Origin.POSTGRES)
    except Refused as error:
        refused = RefusedVersion(newest, error.problems, error.followed)
    problems = refused.problems
    log.error("routes_refused", extra={"fields": {"version": newest.number, "problems": list(problems[:20])}})
    told = "\n".join(problems)
    begun = _from_disk(host, last_good, f"version {newest.number} of the routes can't be taken here:\n{told}\n")
    return replace(begun, refused=refused)


async def _newest(postgres: str) -> RouteVersion | None:
    async with asyncio.timeout(ASK_SECONDS):
        connection = await store.connect(postgres, deadline_seconds=ASK_SECONDS)
        try:
            return await store.version(connection)
        finally:
            connection.terminate()


def _from_disk(host: Configuration, last_good: LastGood, why: str) -> Beginning:
    """Raises CannotBegin."""
    try:
        kept = last_good.read()
    except SnapshotUnusable as error:
        raise CannotBegin(f"{why}, and the last good snapshot can't be used: {error}") from error
    if kept is None:
        raise CannotBegin(
            f"{why}, and there is no last good snapshot in {last_good.path or 'stores.state, which is not set'}: this "
            "gateway has not served yet. Start it while Postgres can be reached and has routes that fit"
        )
    try:
        composed = complete(host, kept)
    except Refused as error:
        told = "\n".join(error.problems)
        raise CannotBegin(f"{why}, and the last good snapshot does not fit this file any more:\n{told}") from error
    log.warning("routes_from_disk", extra={"fields": {"version": kept.number, "reason": why.strip()}})
    return Beginning(host, composed, last_good, kept, Origin.DISK)


def _from_disk_or_nothing(host: Configuration, last_good: LastGood) -> Beginning:
    """Postgres has no version: a new installation, or a database that has lost them. Routes that were there are kept."""
    try:
        return _from_disk(host, last_good, "Postgres has no version of the routes")
    except CannotBegin as error:
        if last_good.kept is not None:
            raise
        log.warning("no_routes_yet", extra={"fields": {"mend": "ostiary routes apply FILE", "reason": str(error)}})
        return Beginning(host, host, last_good)
