"""Invariant: over TLS limits are counted by the Redis that shows the right certificate, and by no other, wherever the address
of it comes from; a user with the rights that docs/configuration.md lists is enough."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import cast

import pytest

from ostiary.core import keyspace
from ostiary.core.model import LimitBy, Plan, RedisLocation, RedisSentinels, RouteLimit, StoreFailure, Window
from ostiary.gateway.limits import Limiter, Outcome
from ostiary.gateway.limits.slots import slot_of
from tests.gateway.limits.support import Observed, decided, policy, running
from tests.support.certificates import Issued, issue
from tests.support.ports import free_port
from tests.support.redis_servers import RedisCluster, Server, ServerTls, server, wait_until
from tests.support.waiting import until

pytestmark = pytest.mark.full

CLOSED = StoreFailure.CLOSED
LIMITS = policy(Plan("p", windows=(Window(1000, 60),), concurrency=50), RouteLimit(Window(1000, 60), LimitBy.IP))
PASSWORD = "canary-93aa"
# As docs/configuration.md has it.
RIGHTS = ("+@scripting", "+@read", "+@write", "+auth", "+select", "+ping", "+time", "+info")
IN_A_CLUSTER, OF_SENTINELS = ("+cluster|slots", "+asking"), ("+role",)
# What nodes announce and their certificates are for: nobody can resolve it.
NODE = "node-1.redis.internal"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return issue(tmp_path_factory.mktemp("authority"), "authority of Redis", authority=True)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return issue(tmp_path_factory.mktemp("stranger"), "another authority", authority=True)


@pytest.fixture(scope="module")
def tls(authority: Issued) -> ServerTls:
    """Not for 127.0.0.1, which is what servers name each other by."""
    return ServerTls(authority.sign("localhost", "*.redis.internal"), authority)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, tls: ServerTls) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster"), tls=tls, replicas=False) as cluster:
        for one in cluster.servers:
            one.ask("ACL", "SETUSER", "gate", "on", f">{PASSWORD}", "~ost:*", *RIGHTS, *IN_A_CLUSTER)
        yield cluster


def url(host: str, port: int, authority: Issued, *options: str) -> str:
    query = "&".join((f"ssl_ca_certs={authority.cert}", *options))
    return f"rediss://gate:{PASSWORD}@{host}:{port}?{query}"


def announce(cluster: RedisCluster, *, hostname: str, preferred: str) -> None:
    for one in cluster.servers:
        one.ask("CONFIG", "SET", "cluster-announce-hostname", hostname)
        one.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", preferred)

    def told() -> bool:
        """By all nodes of all nodes."""
        named = [
            str(one.ask("CLUSTER", "NODES")).count(f",{hostname}" if hostname else ",node") for one in cluster.servers
        ]
        return all(count == (len(named) if hostname else 0) for count in named)

    wait_until(told, "all nodes know what the others announce")


async def counts_everywhere(location: RedisLocation, places: int) -> Limiter:
    """Every call is decided by Redis, nothing is refused, and nothing secret is told."""
    observed = Observed()
    async with running(location, deadline_seconds=0.5, observe=observed) as limiter:
        await until(lambda: limiter.status()["state"] == "connected", f"connected: {limiter.status()}")
        for number in range(10 * places):
            decision = await decided(
                limiter,
                LIMITS,
                key=f"ak_tls_{number}",
                ip=f"192.0.2.{number}",
                nonce=f"n-{number:016}",
                on_failure=CLOSED,
            )
            assert decision.outcome in (Outcome.ALLOWED, Outcome.NONCE_REPLAYED)
            limiter.release(decision.lease)
        limiter_memory = limiter.status()["memory"]
        await until(lambda: "maxmemory_policy" in str(limiter.status()["memory"]), f"INFO is allowed: {limiter_memory}")
        assert "NOPERM" not in str(limiter.status())
        assert PASSWORD not in str(limiter.status())
    assert observed.failures == []
    return limiter


async def away_because(location: RedisLocation, reason: str) -> None:
    async with running(location) as limiter:
        assert limiter.status()["state"] == "away"
        await until(lambda: reason in str(limiter.status()), f"told: {limiter.status()}")
        assert PASSWORD not in str(limiter.status())


@pytest.mark.parametrize(("hostname", "preferred"), [(NODE, "ip"), ("localhost", "hostname")])
async def test_nodes_of_a_cluster_are_who_they_announce_to_be(
    cluster: RedisCluster, authority: Issued, hostname: str, preferred: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Certificates of host names would not fit the addresses of the map: all nodes but the one that was asked were away."""
    announce(cluster, hostname=hostname, preferred=preferred)
    with caplog.at_level(logging.DEBUG):
        await counts_everywhere((url("localhost", cluster.servers[0].tls_port, authority),), places=3)
    assert PASSWORD not in caplog.text


async def test_nodes_that_announce_nothing_are_who_the_configuration_says(
    cluster: RedisCluster, authority: Issued
) -> None:
    """Before Redis 7 nodes have addresses only; to stop verifying would be the way out."""
    announce(cluster, hostname="", preferred="ip")
    port = cluster.servers[0].tls_port
    named = "ssl_server_name=any.redis.internal"
    await counts_everywhere((url("127.0.0.1", port, authority, named),), places=3)
    async with running((url("localhost", port, authority),)) as limiter:
        assert limiter.status()["state"] != "connected", (
            "the map is known, and no node but the one asked is who it says"
        )
        await until(lambda: "IP address mismatch" in str(limiter.status()["masters"]), "it is told")


async def test_nodes_of_another_authority_are_refused(cluster: RedisCluster, stranger: Issued) -> None:
    """Whoever answers in place of a node would get the password."""
    await away_because((url("localhost", cluster.servers[0].tls_port, stranger),), "CERTIFICATE_VERIFY_FAILED")


async def test_a_moved_slot_is_followed_over_tls(cluster: RedisCluster, authority: Issued) -> None:
    """Row 78: a redirection names an address, and no host name: the connection behind it would be refused."""
    announce(cluster, hostname=NODE, preferred="ip")
    source, target = cluster.servers[0], cluster.servers[1]
    key = next(
        f"ak_move_{n}" for n in range(99) if cluster.owner(slot_of(keyspace.plan_state(f"ak_move_{n}"))) is source
    )
    limits = policy(Plan("p", windows=(Window(3, 60),)))
    async with running((url("localhost", source.tls_port, authority),), deadline_seconds=0.5) as limiter:
        await until(lambda: limiter.status()["state"] == "connected", "connected")
        assert (await decided(limiter, limits, key=key, on_failure=CLOSED)).outcome is Outcome.ALLOWED
        slot = slot_of(keyspace.plan_state(key))
        cluster.move_slot(slot, source, target, port=target.tls_port)
        rest = [(await decided(limiter, limits, key=key, on_failure=CLOSED)).outcome for _ in range(3)]
        assert rest == [Outcome.ALLOWED] * 2 + [Outcome.RATE_LIMITED]


# --- Sentinels ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory, tls: ServerTls) -> Iterator[Server]:
    one = server(tmp_path_factory.mktemp("master"), tls=tls)
    wait_until(one.client.ping, "the master answers")
    one.ask("ACL", "SETUSER", "gate", "on", f">{PASSWORD}", "~ost:*", *RIGHTS, *OF_SENTINELS)
    yield one
    one.close()


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory, tls: ServerTls, master: Server) -> Iterator[Server]:
    """It speaks TLS to gateways and to the master, and knows it by `localhost`."""
    directory = tmp_path_factory.mktemp("sentinel")
    port = free_port()
    lines = [
        "sentinel resolve-hostnames yes",
        f"sentinel monitor mymaster localhost {master.tls_port} 1",
        f"user gate on >{PASSWORD} +auth +sentinel|master +sentinel|get-master-addr-by-name",
    ]
    (directory / "sentinel.conf").write_text("\n".join(lines) + "\n")
    options = [str(directory / "sentinel.conf"), "--sentinel", "--bind", "127.0.0.1", *tls.options(free_port())]
    one = Server(directory, port, options)
    one.tls_port = int(options[options.index("--tls-port") + 1])
    one.start()

    def reaches_the_master() -> bool:
        return cast("dict[str, str]", one.client.sentinel_master("mymaster"))["flags"] == "master"

    wait_until(reaches_the_master, "the Sentinel reaches the master over TLS")
    yield one
    one.close()


def location(sentinel: Server, by: Issued, *options: str, sentinels_by: Issued | None = None) -> RedisSentinels:
    asked = url("localhost", sentinel.tls_port, sentinels_by or by)
    return RedisSentinels((asked,), "mymaster", url("mymaster", 6379, by, *options))


async def test_a_master_that_sentinels_name_is_who_the_configuration_says(
    sentinel: Server, master: Server, authority: Issued, stranger: Issued
) -> None:
    """Sentinels name addresses, and certificates are for names; whoever takes the address would be believed."""
    await counts_everywhere(location(sentinel, authority, "ssl_server_name=master.redis.internal"), places=1)
    await away_because(location(sentinel, authority), "IP address mismatch")
    await away_because(location(sentinel, stranger, sentinels_by=authority), "CERTIFICATE_VERIFY_FAILED")


async def test_a_master_that_sentinels_name_by_its_host_name_is_verified_by_it(
    sentinel: Server, master: Server, authority: Issued
) -> None:
    """With `announce-hostnames yes` nothing more needs to be said."""
    sentinel.ask("SENTINEL", "CONFIG", "SET", "announce-hostnames", "yes")
    await counts_everywhere(location(sentinel, authority), places=1)
    sentinel.ask("SENTINEL", "CONFIG", "SET", "announce-hostnames", "no")


async def test_a_sentinel_of_another_authority_is_refused_and_told(
    sentinel: Server, authority: Issued, stranger: Issued
) -> None:
    """It could name any master; and "no Sentinel answers" would send an operator to look at the network."""
    asked = location(sentinel, authority, sentinels_by=stranger)
    await away_because(asked, f"no Sentinel answers; localhost:{sentinel.tls_port}: ")
    await away_because(asked, "CERTIFICATE_VERIFY_FAILED")
