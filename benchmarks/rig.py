"""What all sides of a scenario share: the upstream, and the stores where the scenario needs them. All on the other core."""

from __future__ import annotations

import asyncio
import ctypes.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import asyncpg
import redis

from benchmarks import cpu
from benchmarks.processes import OTHER_CORE, Processes, Started, free_port
from benchmarks.rendering import render_file
from benchmarks.requests import KEY_ID, SECRET
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey

SMALL_ANSWER_BYTES = 121
BLOB_BYTES = 1 << 20

NGINX_MODULES = Path("/usr/lib/nginx/modules")  # where Debian's packages put them


class Role(StrEnum):
    """What a process does for its side; CPU is reported by role. Only GATEWAY is on the measured core. SUPERVISOR has the
    process that it keeps in reserve with it."""

    GATEWAY = "gateway"
    SHIPPER = "shipper"
    SUPERVISOR = "supervisor"
    REDIS = "redis"
    POSTGRES = "postgres"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class RunningStores:
    """A Valkey and a Postgres of this measurement's own."""

    redis_port: int
    redis_pid: int
    postgres_url: str
    postgres_pid: int

    def empty_redis(self) -> None:
        """Every run begins with no nonce taken and no window filled."""
        with redis.Redis(port=self.redis_port) as client:
            client.flushall()

    def usage_rows(self) -> int:
        """Calls that stand in Postgres as metered."""

        async def count() -> int:
            connection = await asyncpg.connect(self.postgres_url)
            try:
                # Guarantees nothing beyond its snapshot: rows of segments that were committed before it.
                return int(await connection.fetchval("SELECT count(*) FROM usage_events"))
            finally:
                await connection.close()

        return asyncio.run(count())


@dataclass(frozen=True, slots=True)
class Rig:
    directory: Path
    processes: Processes
    upstream: Started
    upstream_port: int
    stores: RunningStores | None

    def values(self, **more: object) -> dict[str, object]:
        """What the templates in `peers/` may name, and `more`."""
        stores = self.stores
        return {
            **common_values(self.directory),
            "upstream_port": self.upstream_port,
            "redis_port": stores.redis_port if stores else "",
            "postgres_url": stores.postgres_url if stores else "",
            **more,
        }

    def pids(self) -> dict[Role, frozenset[int]]:
        """The shared processes by role, as of now: Postgres starts one for each connection."""
        pids = {Role.UPSTREAM: cpu.descendants(self.upstream.pid)}
        if self.stores is not None:
            pids[Role.REDIS] = frozenset({self.stores.redis_pid})
            pids[Role.POSTGRES] = cpu.descendants(self.stores.postgres_pid)
        return pids


def common_values(directory: Path) -> dict[str, object]:
    """Values that hold for every server rendered into the directory."""
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return {
        "directory": directory,
        "key_id": KEY_ID,
        "secret": SECRET,
        "modules": NGINX_MODULES,
        "libcrypto": ctypes.util.find_library("crypto") or "libcrypto.so",
        # nginx's own default is a system directory. As root it would also give its worker to `nobody`, who may not enter
        # a private directory.
        "temporary_paths": " ".join(f"{path}_temp_path {directory}/{path};" for path in paths),
        "user": "user root;" if os.geteuid() == 0 else "",
    }


def nginx_command(configuration: Path) -> list[str | Path]:
    return ["nginx", "-p", configuration.parent, "-e", "stderr", "-c", configuration]


@contextmanager
def running_rig(*, with_stores: bool) -> Iterator[Rig]:
    """Starts the upstream (and the stores); whatever happens inside, nothing of it is left afterwards.

    Raises DidNotStart, and MissingWheels when the embedded stores are not installed."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ostiary-bench-")))
        stores = None
        if with_stores:
            # The Postgres of the wheels does not run as root: then it is another user's, who must be able to enter.
            directory.chmod(0o711)
            valkey = stack.enter_context(EmbeddedValkey(directory / "valkey"))
            postgres = stack.enter_context(EmbeddedPostgres(directory / "postgres"))
            stores = RunningStores(valkey.port, valkey.pid, postgres.url(), postgres.pid)
        processes = stack.enter_context(Processes(directory))
        (directory / "blobs").mkdir()
        (directory / "blobs" / "1m").write_bytes(os.urandom(BLOB_BYTES))
        port = free_port()
        values = {**common_values(directory), "upstream_port": port}
        command = nginx_command(render_file("upstream.conf", directory, values))
        upstream = processes.start("upstream", command, core=OTHER_CORE)
        processes.wait_until_listening(upstream, port)
        yield Rig(directory, processes, upstream, port, stores)
