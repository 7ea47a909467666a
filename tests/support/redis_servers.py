"""Real Redis servers: alone, as a cluster of masters with a replica each, and as a master under Sentinels.

They are Debian's `redis-server`, or another program that is named (a Valkey of a wheel). Everything stands below a directory
of the test's own, on free ports, without persistence: what is killed comes back empty, as a replica."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import redis
from redis.exceptions import RedisError

from tests.support.certificates import Issued
from tests.support.freezing import freeze
from tests.support.ports import free_port

PROGRAM = "redis-server"
READY_WITHIN_SECONDS = 20.0

# How long a master does not answer until the others replace it. 15 s in production; here no test has so long.
NODE_TIMEOUT_MS = 500


def wait_until(holds: Callable[[], object], what: str, *, within_seconds: float = READY_WITHIN_SECONDS) -> float:
    """The seconds it took. Redis not answering is the same as not holding."""
    began = time.monotonic()
    while True:
        try:
            if holds():
                return time.monotonic() - began
        except RedisError:
            pass
        assert time.monotonic() - began < within_seconds, f"not within {within_seconds} s: {what}"
        time.sleep(0.01)


@dataclass
class Server:
    """One process. `options` are those of the command line."""

    directory: Path
    port: int
    options: list[str]
    program: str = PROGRAM
    password: str | None = None
    tls_port: int = 0
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, *self.options, "--port", str(self.port), "--dir", str(self.directory)],
                stdout=log,
                stderr=log,
            )

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=2, password=self.password)

    def ask(self, *command: str | int) -> object:
        client = self.client
        try:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
        finally:
            client.close()

    def role(self) -> bytes:
        answer = self.ask("ROLE")
        assert isinstance(answer, list)
        return bytes(answer[0])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        freeze(self.process.pid)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class ServerTls:
    """What servers show, and the authority that they and their clients trust."""

    issued: Issued
    authority: Issued

    def options(self, port: int) -> list[str]:
        """Also what speaks to other servers does so by TLS; tests come by the port without."""
        files = (self.issued.cert, self.issued.key, self.authority.cert)
        named = zip(("--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file"), files, strict=True)
        shown = [text for option, file in named for text in (option, str(file))]
        return ["--tls-port", str(port), *shown, "--tls-auth-clients", "no", "--tls-replication", "yes"]


def server(
    directory: Path,
    *options: str,
    program: str = PROGRAM,
    password: str | None = None,
    port: int | None = None,
    tls: ServerTls | None = None,
) -> Server:
    common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]
    port = port or free_port()
    tls_port = free_port(with_bus=True) if tls is not None else 0
    if tls is not None:
        common += tls.options(tls_port)
    made = Server(directory / str(port), port, [*common, *options], program, password, tls_port)
    made.start()
    return made


class RedisCluster:
    """`masters_n` masters, and a replica of each, if there are `replicas`. The first of `servers` began as masters. With
    `tls` they speak it to each other, and name ports that do."""

    def __init__(
        self,
        directory: Path,
        *,
        masters_n: int = 3,
        program: str = PROGRAM,
        options: tuple[str, ...] = (),
        node_timeout_ms: int = NODE_TIMEOUT_MS,
        replicas: bool = True,
        tls: ServerTls | None = None,
    ) -> None:
        self.masters_n = masters_n
        self._servers_n = 2 * masters_n if replicas else masters_n
        self._tls = tls
        self._node_timeout_ms = node_timeout_ms
        self.servers: list[Server] = []
        self._directory = directory
        self._program = program
        self._options = options

    def __enter__(self) -> RedisCluster:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def urls(self) -> tuple[str, ...]:
        return tuple(f"redis://{one.place}" for one in self.servers)

    def close(self) -> None:
        for one in self.servers:
            one.close()
        for one in self.servers:
            shutil.rmtree(one.directory, ignore_errors=True)

    def _start(self) -> None:
        by_tls = ("--tls-cluster", "yes") if self._tls is not None else ()
        for _ in range(self._servers_n):
            self.servers.append(
                server(
                    self._directory,
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(self._node_timeout_ms)),
                    *("--cluster-require-full-coverage", "no"),
                    *("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"),
                    *(*by_tls, *self._options),
                    program=self._program,
                    port=free_port(with_bus=True),
                    tls=self._tls,
                )
            )
        for one in self.servers:
            wait_until(one.client.ping, f"{one.place} answers")
        masters, replicas = self.servers[: self.masters_n], self.servers[self.masters_n :]
        for number, one in enumerate(masters):
            first, last = number * 16384 // self.masters_n, (number + 1) * 16384 // self.masters_n - 1
            one.ask("CLUSTER", "ADDSLOTS", *range(first, last + 1))  # Redis 6.2 knows no ranges
            one.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for one in self.servers[1:]:
            one.ask("CLUSTER", "MEET", "127.0.0.1", self.servers[0].tls_port or self.servers[0].port)
        everyone = len(self.servers)
        wait_until(
            lambda: all(one.client.cluster("info")["cluster_known_nodes"] == str(everyone) for one in self.servers),
            "all nodes know each other",
        )
        for master, replica in zip(masters, replicas, strict=False):
            replica.ask("CLUSTER", "REPLICATE", self.id_of(master))
        wait_until(
            lambda: (
                all(one.client.cluster("info")["cluster_state"] == "ok" for one in self.servers)
                and all(one.client.info("replication").get("master_link_status") == "up" for one in replicas)
            ),
            "the cluster is ready",
        )

    # --- what is where ------------------------------------------------------------------------------------------------

    def id_of(self, one: Server) -> str:
        answer = one.ask("CLUSTER", "MYID")
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def owner(self, slot: int, *, asked: Server | None = None) -> Server:
        """The master of a slot, as a node that is alive sees it."""
        alive = asked or next(one for one in self.servers if one.process.poll() is None)
        answer = alive.ask("CLUSTER", "SLOTS")
        assert isinstance(answer, list)
        for first, last, master, *_ in answer:
            if first <= slot <= last:
                return next(one for one in self.servers if one.port == int(master[1]))
        raise AssertionError(f"slot {slot} has no master")

    def replica_of(self, master: Server) -> Server:
        for one in self.servers:
            if one is master or one.process.poll() is not None:
                continue
            role = one.ask("ROLE")
            assert isinstance(role, list)
            if role[0] == b"slave" and int(role[2]) == master.port:
                return one
        raise AssertionError(f"{master.place} has no replica")

    def move_slot(
        self, slot: int, source: Server, target: Server, *, pause_seconds: float = 0.0, port: int | None = None
    ) -> int:
        """As `redis-cli --cluster reshard` does it; the keys that were moved. `pause_seconds` is between two of them; `port`
        of the target is where the source sends them to, if that is not its own."""
        source_id, target_id = self.id_of(source), self.id_of(target)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        moved = 0
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            assert isinstance(keys, list)
            for key in keys:
                source.client.migrate("127.0.0.1", port or target.port, key, 0, 5000)
                moved += 1
            time.sleep(pause_seconds)
        target.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        source.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        return moved


class SentinelSite:
    """A master, a replica and three Sentinels that know the master as `mymaster`."""

    SERVICE = "mymaster"

    def __init__(self, directory: Path, *, password: str | None = None) -> None:
        self._directory = directory
        self._password = password
        self.servers: list[Server] = []
        self.sentinels: list[Server] = []

    def __enter__(self) -> SentinelSite:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for one in (*self.servers, *self.sentinels):
            one.close()
            shutil.rmtree(one.directory, ignore_errors=True)

    def sentinel_urls(self) -> tuple[str, ...]:
        return tuple(f"redis://{one.place}" for one in self.sentinels)

    def master(self) -> Server:
        return next(one for one in self.servers if one.process.poll() is None and one.role() == b"master")

    def _start(self) -> None:
        secret = () if self._password is None else ("--requirepass", self._password, "--masterauth", self._password)
        options = (*secret, "--repl-diskless-sync-delay", "0")
        self.servers.append(server(self._directory, *options, password=self._password))
        master = self.servers[0]
        wait_until(master.client.ping, "the master answers")
        self.servers.append(
            server(self._directory, *options, "--replicaof", "127.0.0.1", str(master.port), password=self._password)
        )
        wait_until(lambda: self.servers[1].client.info("replication")["master_link_status"] == "up", "it is followed")
        for _ in range(3):
            port = free_port()
            directory = self._directory / f"sentinel-{port}"
            directory.mkdir(parents=True)
            lines = [
                f"sentinel monitor {self.SERVICE} 127.0.0.1 {master.port} 2",
                f"sentinel down-after-milliseconds {self.SERVICE} {NODE_TIMEOUT_MS}",
                f"sentinel failover-timeout {self.SERVICE} 3000",
            ]
            if self._password is not None:
                lines.append(f"sentinel auth-pass {self.SERVICE} {self._password}")
            (directory / "sentinel.conf").write_text("\n".join(lines) + "\n")
            one = Server(directory, port, [str(directory / "sentinel.conf"), "--sentinel", "--bind", "127.0.0.1"])
            one.start()
            self.sentinels.append(one)
        self.wait_until_calm()

    def wait_until_calm(self) -> None:
        """The replica follows, and the Sentinels know the master, the replica and each other."""

        def calm(sentinel: Server) -> bool:
            known = cast("dict[str, int]", sentinel.client.sentinel_master(self.SERVICE))
            return (known["port"], known["num-other-sentinels"], known["num-slaves"]) == (self.master().port, 2, 1)

        replica = next(one for one in self.servers if one is not self.master())
        wait_until(lambda: replica.client.info("replication").get("master_link_status") == "up", "the replica follows")
        wait_until(lambda: all(calm(one) for one in self.sentinels), "the Sentinels are ready")
