"""Consistent hashing by what the operator chooses: the calls of one tenant go to one target, whoever makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ostiary.core.model import Authentication, Environment, Key, Match, Scheme
from ostiary.core.upstream import Balance, HashBy, HashSource
from tests.support.gateway import ANONYMOUS, configuration, key, route, running_gateway, talk, upstream
from tests.support.origin import Origin, running_origin

BEARER = Authentication(schemes=frozenset({Scheme.BEARER}))
SECRETS = [f"sk_test_{number:040}".encode() for number in range(12)]
KEYS = [key(f"ak_test_{number}", secret, environment=Environment.TEST) for number, secret in enumerate(SECRETS)]


class Site:
    def __init__(self, port: int, origins: list[Origin]) -> None:
        self.port = port
        self.origins = origins

    async def target_of(self, path: str, *headers: str) -> int:
        """The number of the origin that a call goes to."""
        before = [len(origin.seen) for origin in self.origins]
        head = "".join(f"{header}\r\n" for header in (f"GET {path} HTTP/1.1", "Host: a", "Connection: close", *headers))
        assert (await talk(self.port, head.encode() + b"\r\n")).startswith(b"HTTP/1.1 200")
        (number,) = [at for at, origin in enumerate(self.origins) if len(origin.seen) > before[at]]
        return number


@asynccontextmanager
async def site(hash_by: HashBy, *, path: str = "/**", keys: list[Key] | None = None) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        origins = [await stack.enter_async_context(running_origin()) for _ in range(3)]
        ports = (origin.port for origin in origins)
        settings = upstream(*ports, balance=Balance.CONSISTENT_HASH, hash_by=hash_by)
        routes = [route(match=Match(path=path), authentication=BEARER if keys else ANONYMOUS)]
        gateway = await stack.enter_async_context(running_gateway(configuration([settings], routes, keys=keys or [])))
        yield Site(gateway.port, origins)


def bearer(secret: bytes) -> str:
    return f"Authorization: Bearer {secret.decode()}"


async def test_calls_of_one_header_go_to_one_target_whoever_calls() -> None:
    """The cache of a tenant would be spread over all targets, by the keys that the tenant has."""
    async with site(HashBy(HashSource.HEADER, "X-Tenant"), keys=KEYS) as here:
        tenants = Counter[int]()
        for tenant in range(12):
            spellings = (f"X-Tenant: t{tenant}", f"x-TENANT:t{tenant} ", f"Accept: a\r\nX-Tenant:   t{tenant}")
            targets = {
                await here.target_of("/", bearer(secret), spelling)
                for secret, spelling in zip(SECRETS, spellings, strict=False)
            }
            assert len(targets) == 1
            tenants.update(targets)
        assert len(tenants) > 1, "and tenants are spread"


async def test_a_header_that_the_gateway_reads_itself_can_be_hashed_by() -> None:
    """Some headers are kept apart from those that pass unread: the operator need not know which."""
    async with site(HashBy(HashSource.HEADER, "User-Agent")) as here:
        agents = [f"User-Agent: agent-{number}" for number in range(12)]
        first = [await here.target_of("/", agent) for agent in agents]
        assert first == [await here.target_of("/other", agent) for agent in agents]
        assert len(set(first)) > 1


async def test_calls_without_the_header_go_by_their_key() -> None:
    """All of them would go to one target."""
    async with site(HashBy(HashSource.HEADER, "X-Tenant"), keys=KEYS) as here:
        by_key = [await here.target_of("/", bearer(secret)) for secret in SECRETS]
        assert by_key == [await here.target_of("/", bearer(secret), "X-Tenant:") for secret in SECRETS]
        assert len(set(by_key)) > 1


@pytest.mark.parametrize("source", [HashSource.KEY, HashSource.IP])
async def test_a_key_has_its_target_and_an_address_has_one_for_all_its_keys(source: HashSource) -> None:
    """What is hashed by the address must not depend on who calls from there, and the other way round."""
    async with site(HashBy(source), keys=KEYS) as here:
        targets = [await here.target_of("/", bearer(secret)) for secret in SECRETS]
        assert targets == [await here.target_of("/again", bearer(secret)) for secret in SECRETS]
        assert (len(set(targets)) > 1) is (source is HashSource.KEY)


async def test_calls_of_one_path_parameter_go_to_one_target() -> None:
    """What a target holds ready for a client would be asked for elsewhere."""
    async with site(HashBy(HashSource.PATH_PARAMETER, "id"), path="/v1/{kind}/{id}/**") as here:
        clients = [f"c{number}" for number in range(12)]
        first = [await here.target_of(f"/v1/a/{client}") for client in clients]
        assert first == [await here.target_of(f"/v1/b/{client}/deeper?x=1") for client in clients]
        assert first == [await here.target_of(f"/v1/b/%63{client[1:]}/") for client in clients], "%63 is c"
        assert len(set(first)) > 1
