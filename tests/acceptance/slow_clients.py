"""slowhttptest against the gateway while well-behaved clients go on: for the test and for the proof."""

from __future__ import annotations

import http.client
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tests.acceptance.edge_site import GOOD_HOST
from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.processors import children_on

# (`-t GET`: the raw origin knows no HEAD, and a body after an answer to HEAD spoils its connection.)
# What each mode of slowhttptest asks for, and how: heads and bodies come a few bytes a second, answers of 512 KiB are read
# as slowly, or many ranges are asked for at once.
MODES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "slow headers": ("-H", "-i", "1", "-x", "10"),
        "slow body": ("-B", "-i", "1", "-s", "8192", "-x", "10"),
        "slow read": ("-X", "-n", "1", "-z", "32", "-w", "512", "-y", "1024", "-k", "1"),
        "ranges": ("-R", "-t", "GET", "-a", "10", "-b", "3000"),
    }
)
PATHS = MappingProxyType(
    {
        "slow headers": "/raw/sent",
        "slow body": "/raw/sink",
        "slow read": "/raw/source?bytes=524288&frame=length",
        "ranges": "/raw/source?bytes=65536&frame=length",
    }
)
# The good clients have another address than the slow ones: by address, they can be told apart.
GOOD_ADDRESS = "127.0.0.2"


@dataclass
class GoodLoad:
    """Clients that each make a call every `1 / rate` seconds, on connections they keep. Latencies are in seconds."""

    port: int
    clients: int = 8
    rate: float = 25.0
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> GoodLoad:
        for number in range(self.clients):
            thread = threading.Thread(target=self._client, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _client(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10, source_address=(GOOD_ADDRESS, 0))
        due = time.monotonic() + number / self.clients / self.rate
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += 1 / self.rate
            began = time.monotonic()
            try:
                connection.request("GET", "/raw/source?bytes=200&frame=length", headers={"Host": GOOD_HOST})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200 or len(body) != 200:
                    self.failures.append(f"{answer.status}, {len(body)} bytes")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            self.latencies.append(time.monotonic() - began)
        connection.close()

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def attack(
    port: int, mode: str, *, connections: int, seconds: int, processors: set[int] | None = None
) -> subprocess.Popen[str]:
    """slowhttptest, which ends by itself after `seconds`, or when no connection is left."""
    command = [
        "slowhttptest",
        "-c",
        str(connections),
        "-r",
        str(max(50, connections // 5)),
        "-l",
        str(seconds),
        "-v",
        "1",
    ]
    command += ["-u", f"http://127.0.0.1:{port}{PATHS[mode]}", "-p", "5", *MODES[mode]]
    with children_on(processors or os.sched_getaffinity(0)):
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@dataclass(frozen=True)
class Outcome:
    """`most` is how many client connections the gateway had at once; `left` how many once all was over."""

    mode: str
    calls: int
    failures: tuple[str, ...]
    p50_seconds: float
    p99_seconds: float
    most: int
    left: int

    def __str__(self) -> str:
        return (
            f"{self.mode:14} {self.calls:6} calls, {len(self.failures)} failed, p50 {self.p50_seconds * 1e3:5.1f} ms, "
            f"p99 {self.p99_seconds * 1e3:6.1f} ms, at most {self.most:5} connections, {self.left} left"
        )


def measure(
    gateway: GatewayProcess,
    mode: str | None,
    *,
    connections: int,
    seconds: int,
    attackers_on: set[int] | None = None,
) -> Outcome:
    """A good load for `seconds`, beside an attack in `mode` if there is one, on processors of its own if they are named."""
    most = 0
    with GoodLoad(gateway.port) as load:
        attacking = None
        if mode is not None:
            attacking = attack(gateway.port, mode, connections=connections, seconds=seconds, processors=attackers_on)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            most = max(most, open_connections(gateway))
            time.sleep(0.25)
        if attacking is not None:
            attacking.communicate(timeout=60)
    left = 0
    try:
        eventually(lambda: open_connections(gateway) <= 0, "all are gone", 15)
    except AssertionError:
        left = open_connections(gateway)
    return Outcome(
        mode=mode or "no slow ones",
        calls=len(load.latencies),
        failures=tuple(load.failures),
        p50_seconds=load.percentile(0.5),
        p99_seconds=load.percentile(0.99),
        most=most,
        left=left,
    )


def open_connections(gateway: GatewayProcess) -> int:
    """As the gateway's metrics tell it."""
    text = gateway.admin("/metrics")[1]
    line = next(line for line in text.splitlines() if line.startswith("client_connections "))
    return int(float(line.split()[1]))
