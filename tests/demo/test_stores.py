"""The embedded servers that the demo and all other tests stand on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis

from ostiary.demo.accounts import Account, can_be_entered, can_be_read
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey, StoreFailed
from tests.support.directories import directory_for_all

OWNER = """
import sys
from pathlib import Path
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey

base = Path(sys.argv[1])
postgres, valkey = EmbeddedPostgres(base / "postgres"), EmbeddedValkey(base / "valkey")
postgres.start()
valkey.start()
print(postgres.pid, valkey.pid, postgres.directory, valkey.directory, flush=True)
sys.stdin.read()
"""


def wait_until(holds: Callable[[], bool], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} not within {seconds} s"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_postgres_answers(empty_database: str) -> None:
    connection = await asyncpg.connect(empty_database)
    assert await connection.fetchval("SELECT 6 * 7") == 42
    assert await connection.fetchval("SHOW server_encoding") == "UTF8"
    assert await connection.fetchval("SHOW timezone") == "UTC"
    await connection.close()


async def test_committed_rows_outlive_an_immediate_stop(own_postgres: EmbeddedPostgres) -> None:
    """Fault tests pull the plug and look for what had been acknowledged; without this they would prove nothing."""
    connection = await asyncpg.connect(own_postgres.url())
    await connection.execute("CREATE TABLE kept (number int)")
    await connection.execute("INSERT INTO kept VALUES (7)")
    own_postgres.pg_ctl("stop", "-m", "immediate")
    own_postgres.start_again()
    again = await asyncpg.connect(own_postgres.url())
    assert await again.fetchval("SELECT number FROM kept") == 7
    await again.close()


async def test_postgres_listens_on_no_network_address(own_postgres: EmbeddedPostgres) -> None:
    """A demo must not open a database that trusts everybody to the network, or to other users of the machine."""
    assert not psutil.Process(own_postgres.pid).net_connections("inet")
    assert own_postgres.directory.stat().st_mode & 0o077 == 0


def test_the_users_postgres_settings_do_not_reach_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPORT names the user's own server; obeyed, it would move ours to another socket than `url` says."""
    monkeypatch.setenv("PGPORT", "6543")
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        assert (server.directory / ".s.PGSQL.5432").exists()


def test_a_long_path_does_not_break_the_socket() -> None:
    """Socket paths end at 104 bytes; a deep checkout would make the demo fail with "Unix-domain socket path too long"."""
    with directory_for_all() as directory:
        deep = directory / ("d" * 60) / ("e" * 60)
        deep.mkdir(parents=True)
        with EmbeddedPostgres(deep / "postgres") as server:
            assert server.directory == (deep / "postgres").resolve()
            server.pg_ctl("status")


def test_data_that_is_kept_is_there_again(tmp_path: Path) -> None:
    """`ostiary demo --data DIR` would lose its counters."""
    with EmbeddedValkey(tmp_path / "valkey", keep=True) as server, redis.Redis.from_url(server.url()) as client:
        client.set("kept", "yes")
    with EmbeddedValkey(tmp_path / "valkey", keep=True) as server, redis.Redis.from_url(server.url()) as client:
        assert client.get("kept") == b"yes"


def test_nothing_is_left_of_servers_that_stop(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as postgres, EmbeddedValkey(tmp_path / "valkey") as valkey:
        pids = [postgres.pid, valkey.pid]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not postgres.directory.exists()
    assert not valkey.directory.exists()


def test_nothing_is_left_of_servers_whose_owner_is_killed(tmp_path: Path) -> None:
    """`kill -9` of a demo or a test run would leave servers that hold memory and ports until the next boot."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    postgres_pid, valkey_pid, *directories = owner.stdout.readline().split()
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    wait_until(
        lambda: not is_alive(int(postgres_pid)) and not is_alive(int(valkey_pid)), seconds=10, what="servers ended"
    )
    wait_until(lambda: not any(Path(name).exists() for name in directories), seconds=10, what="directories removed")


def test_valkey_keeps_its_port_over_a_crash(own_valkey: EmbeddedValkey) -> None:
    port = own_valkey.port
    own_valkey.kill()
    own_valkey.start()
    assert own_valkey.port == port
    with redis.Redis.from_url(own_valkey.url()) as client:
        assert client.ping()


def test_valkey_says_that_its_port_is_taken(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Taking the answer of whoever has the port for our server's would mix two demos' counters."""
    with pytest.raises(StoreFailed, match="Address already in use"):
        EmbeddedValkey(tmp_path / "second", port=own_valkey.port).start()


def test_reach_follows_the_permission_bits() -> None:
    """Root's Postgres runs as another account: told wrongly that it can read its data, it fails to start."""
    me = Account("me", os.getuid(), os.getgid())
    mate = Account("mate", 12345, os.getgid())
    other = Account("other", 12345, 12345)
    with tempfile.TemporaryDirectory() as name:  # in a place that all may enter, unlike pytest's own
        program = Path(name) / "program"
        program.touch(mode=0o754)
        program.chmod(0o754)
        assert can_be_entered(Path(name), me)
        assert not can_be_entered(Path(name), other)
        assert not can_be_read(program, mate)
        Path(name).chmod(0o711)
        assert can_be_entered(Path(name), other)
        assert can_be_read(program, mate)
        assert can_be_read(program, other)
        program.chmod(0o750)
        assert not can_be_read(program, other)
