"""Which version a gateway begins with, by what Postgres and the disk have."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from ostiary.core.config import load_text
from ostiary.core.model import Configuration
from ostiary.core.published import RouteVersion, document_sha256
from ostiary.gateway.published import Beginning, CannotBegin, LastGood, begin
from ostiary.gateway.published.beginning import Origin

NO_POSTGRES = "postgresql://secret_user:secret_password@127.0.0.1:1/x"


def document(name: str) -> str:
    route = f"{{name: {name}, match: {{path: /}}, upstream: o, auth: {{schemes: [anonymous]}}}}"
    return f'version: 1\nupstreams: {{o: {{targets: [{{url: "http://h"}}]}}}}\nroutes: [{route}]\n'


def host(postgres: str) -> Configuration:
    text = f'version: 1\nstores: {{postgres: "{postgres}"}}\nroutes: {{from: control_plane}}\n'
    return load_text(text, name="gateway.yaml", environment={})


def version(number: int, text: str) -> RouteVersion:
    return RouteVersion(number, text, document_sha256(text), 0.0)


@pytest.fixture
def last_good(tmp_path: Path) -> LastGood:
    return LastGood(str(tmp_path))


@pytest.fixture
async def database(migrated_database: str) -> str:
    return migrated_database


async def publish(database: str, text: str, *, sha256: str | None = None) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO route_versions (number, document, sha256, normal_form, author)"
        " SELECT coalesce(max(number), 0) + 1, $1, $2, '{\"routes\": []}', 'test' FROM route_versions",
        text,
        sha256 or document_sha256(text),
    )
    await connection.close()


def routes(beginning: Beginning) -> list[str]:
    return [route.name for route in beginning.configuration.routes]


async def test_postgres_is_asked_first(database: str, last_good: LastGood) -> None:
    """A gateway would come back with old routes, and serve by them until it has caught up."""
    last_good.write(version(1, document("old")))
    await publish(database, document("old"))
    await publish(database, document("new"))
    beginning = await begin(host(database), last_good)
    assert (routes(beginning), beginning.origin, beginning.version and beginning.version.number) == (
        ["new"],
        Origin.POSTGRES,
        2,
    )


async def test_without_postgres_the_disk_has_it(last_good: LastGood) -> None:
    """Row 117: the control plane and Postgres are down at a start."""
    last_good.write(version(4, document("kept")))
    beginning = await begin(host(NO_POSTGRES), last_good)
    assert (routes(beginning), beginning.origin) == (["kept"], Origin.DISK)


async def test_without_either_it_does_not_begin_and_says_why(last_good: LastGood) -> None:
    """Row 117: a gateway that answers 404 to everyone looks like one that works."""
    with pytest.raises(CannotBegin, match="there is no last good snapshot") as error:
        await begin(host(NO_POSTGRES), last_good)
    assert "secret_" not in str(error.value)
    assert last_good.path is not None
    last_good.path.write_bytes(b"half")
    with pytest.raises(CannotBegin, match="is damaged"):
        await begin(host(NO_POSTGRES), last_good)
    last_good.write(version(4, document("kept").replace("upstream: o", "upstream: x")))
    with pytest.raises(CannotBegin, match="does not fit this file any more"):
        await begin(host(NO_POSTGRES), last_good)


async def test_what_can_not_be_taken_here_is_refused_for_the_last_good(database: str, last_good: LastGood) -> None:
    """A restart would end what a reload survives: the running gateway keeps the version before."""
    last_good.write(version(1, document("kept")))
    await publish(database, document("kept"))
    for text, sha256 in ((document("new").replace("http://h", "${NOT_GIVEN}"), None), (document("new"), "0" * 64)):
        await publish(database, text, sha256=sha256)
        beginning = await begin(host(database), last_good)
        assert (routes(beginning), beginning.origin) == (["kept"], Origin.DISK)
        assert beginning.refused is not None
        assert beginning.refused.problems
    (last_good.path or Path()).unlink()
    with pytest.raises(CannotBegin, match="does not fit its checksum"):
        await begin(host(database), last_good)


async def test_a_database_that_lost_its_versions_takes_no_routes_away(database: str, last_good: LastGood) -> None:
    """A restored or mistaken database would make every restarted gateway one without routes."""
    assert routes(await begin(host(database), last_good)) == []
    last_good.write(version(9, document("kept")))
    assert routes(await begin(host(database), last_good)) == ["kept"]
    (last_good.path or Path()).write_bytes(b"half")
    with pytest.raises(CannotBegin, match="is damaged"):
        await begin(host(database), last_good)


async def test_a_database_of_before_is_told_how_to_mend_it(empty_database: str, last_good: LastGood) -> None:
    with pytest.raises(CannotBegin, match="ostiary db migrate"):
        await begin(host(empty_database), last_good)
