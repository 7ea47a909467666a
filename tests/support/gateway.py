"""A gateway in this process, on a free port, made of the real parts."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ostiary.core.model import (
    Authentication,
    ClientLimits,
    Configuration,
    ControlPlaneSettings,
    Environment,
    FailedAttempts,
    GatewaySettings,
    Key,
    Listen,
    Match,
    Network,
    Plan,
    Route,
    Scheme,
    Stores,
)
from ostiary.core.upstream import Retries, Target, Timeouts, Upstream
from ostiary.gateway.failed_attempts import AttemptTable, Gate
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.limits import Limiter, UnobservedLimiter
from ostiary.gateway.service import Gateway
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.usage import Spool

KEY_ID = "ak_test_client"
SECRET = b"sk_test_0123456789abcdef0123456789abcdef"
EVERY_SCHEME = frozenset({Scheme.BEARER, Scheme.HMAC, Scheme.HMAC_BODY, Scheme.HTTP_SIGNATURE})
ANONYMOUS = Authentication(schemes=frozenset({Scheme.ANONYMOUS}))


def key(
    identifier: str = KEY_ID,
    secret: bytes = SECRET,
    *,
    plan: str | None = None,
    scopes: Iterable[str] = (),
    environment: Environment = Environment.TEST,
    networks: tuple[Network, ...] = (),
    origins: Iterable[str] = (),
    expires_at: float | None = None,
    previous: tuple[bytes, float] | None = None,
) -> Key:
    """`previous` is the secret before, and when it ends."""
    made = Key(
        id=identifier,
        environment=environment,
        secret_sha256=hashlib.sha256(secret).digest(),
        secret=secret,
        plan=plan,
        scopes=frozenset(scopes),
        allowed_networks=networks,
        allowed_origins=frozenset(origins),
        expires_at=expires_at,
    )
    if previous is None:
        return made
    before, ends_at = previous
    hashed = hashlib.sha256(before).digest()
    return replace(made, generation=2, previous=replace(made, secret=before, secret_sha256=hashed, expires_at=ends_at))


def route(name: str = "all", path: str = "/**", **changes: object) -> Route:
    """A route open to everyone unless `authentication` says otherwise."""
    values: dict[str, object] = {
        "name": name,
        "match": Match(path=path),
        "upstreams": {Environment.LIVE: "origin", Environment.TEST: "origin"},
        "authentication": ANONYMOUS,
    }
    return Route(**(values | changes))  # type: ignore[arg-type]  # a builder: the fields are checked where they are used


def upstream(*ports: int, name: str = "origin", **changes: object) -> Upstream:
    targets = tuple(Target("http", "127.0.0.1", port) for port in ports)
    values: dict[str, object] = {
        "name": name,
        "targets": targets,
        # No origin of a test is slow but one that says so, and a busy machine is no slow origin.
        "timeouts": Timeouts(connect_seconds=10.0, first_byte_seconds=20.0, idle_seconds=20.0),
        "retries": Retries(attempts=2, on=frozenset({"connect", "reset"})),
    }
    return Upstream(**(values | changes))  # type: ignore[arg-type]  # as above


def configuration(
    upstreams: Iterable[Upstream],
    routes: Iterable[Route],
    *,
    keys: Iterable[Key] = (),
    plans: Mapping[str, Plan] | None = None,
    redis: str | None = None,
    client_limits: ClientLimits | None = None,
    trusted_proxies: tuple[Network, ...] = (),
    failed_attempts: FailedAttempts | None = None,
) -> Configuration:
    """Failed attempts have no bound unless one is given: tests refuse in a second what would take a caller an hour."""
    return Configuration(
        gateway=GatewaySettings(
            listen=Listen("127.0.0.1", 0),
            admin=Listen("127.0.0.1", 0),
            trusted_proxies=trusted_proxies,
            client_limits=client_limits or ClientLimits(),
            failed_attempts=failed_attempts,
        ),
        control_plane=ControlPlaneSettings(Listen("127.0.0.1", 0), None, ""),
        stores=Stores(redis, 0.5, None, "", 1 << 28, None),
        plans=plans or {},
        upstreams={each.name: each for each in upstreams},
        routes=tuple(routes),
        keys={each.id: each for each in keys},
    )


@dataclass
class RunningGateway:
    port: int
    gateway: Gateway
    metrics: Metrics
    spool: Spool | None

    def count(self, name: str, **labels: str) -> float:
        """The value of a counter."""
        return self.metrics.counter(name, **labels).total


@asynccontextmanager
async def running_gateway(
    settings: Configuration,
    *,
    spool_directory: Path | None = None,
    spool_bytes_max: int = 1 << 28,
    sock: socket.socket | None = None,
) -> AsyncIterator[RunningGateway]:
    """On `sock`, which is bound, or on a free port."""
    metrics = Metrics.in_memory()
    spool = None
    if spool_directory is not None:
        spool = Spool(
            directory=spool_directory,
            worker="test",
            segment_bytes=1 << 20,
            bytes_max=spool_bytes_max,
            settings=settings.usage.spool,
        )
    gate = Gate(
        AttemptTable.alone(),
        settings=settings.gateway.failed_attempts,
        trusted=settings.gateway.trusted_proxies,
        metrics=metrics,
    )
    keys = KeyRing(
        gate=gate,
        file_keys=settings.keys,
        postgres_url=settings.stores.postgres,
        envelope=None,
        stale_seconds=settings.gateway.key_stale_seconds,
    )
    limiter = Limiter(
        url=settings.stores.redis,
        deadline_seconds=settings.stores.redis_deadline_seconds,
        workers=1,
        observe=UnobservedLimiter(),
    )
    await keys.start()
    await limiter.start()
    gateway = Gateway(configuration=settings, metrics=metrics, spool=spool, keys=keys, limiter=limiter, gate=gate)
    if sock is None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await gateway.start(sock)
    try:
        yield RunningGateway(port, gateway, metrics, spool)
    finally:
        await gateway.drain(0.2)
        await limiter.close()
        await keys.close()
        if spool is not None:
            spool.close()


async def talk(port: int, *pieces: bytes, eof: bool = False, seconds: float = 5.0) -> bytes:
    """Sends the pieces one after the other and reads until the gateway closes. Raises TimeoutError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(seconds):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if eof:
                writer.write_eof()
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
