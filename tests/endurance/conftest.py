"""The processes that all tests of this folder share, and a site of each test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.callers import Callers
from tests.endurance.origin import OriginProcess, running_origin
from tests.endurance.site import Site, fresh_database

MakeSite = Callable[..., Site]


@pytest.fixture(scope="package")
def eight_callers() -> Iterator[Callers]:
    callers = Callers(8)
    yield callers
    callers.close()


@pytest.fixture(scope="package")
def callers() -> Iterator[Callers]:
    callers = Callers(3)
    yield callers
    callers.close()


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[OriginProcess]:
    with running_origin(tmp_path) as running:
        yield running


@pytest.fixture
def make_site(
    tmp_path: Path, origin: OriginProcess, postgres_server: EmbeddedPostgres, valkey_server: EmbeddedValkey
) -> MakeSite:
    """A site with the stores of the whole run, or with those given."""

    def make(
        *,
        workers: int,
        postgres: EmbeddedPostgres | None = None,
        redis: str | None = None,
        redis_deadline: str = "1s",
        postgres_password: str = "",
    ) -> Site:
        return Site(
            tmp_path,
            postgres=fresh_database(postgres or postgres_server).replace("postgres@", f"postgres:{postgres_password}@"),
            redis=redis or valkey_server.url(),
            origin_port=origin.port,
            workers=workers,
            redis_deadline=redis_deadline,
        )

    return make
