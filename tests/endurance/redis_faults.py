"""What can be wrong with Redis, each as a context: wrong from its beginning, right again after its end.

A context gives the moments, of the monotonic clock in ns, at which Redis forgot what the caller WATCHED had used: more are
added while it lasts. After each of them a limit begins anew."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import redis

from ostiary.core import keyspace
from ostiary.demo.stores import EmbeddedValkey
from tests.support.fault_proxy import FaultProxy, Faults

WATCHED = "key_exact_log"
FLUSH_SECONDS = 1.0
LATENCY_SECONDS = 0.5
# Of other keys that are written without end while Redis must evict.
FILLER_BYTES = 1024
FILLERS = 10
FILL_SECONDS = 0.02
ROOM_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """A Redis, and the proxy by which a gateway reaches it."""

    valkey: EmbeddedValkey
    proxy: FaultProxy

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.valkey.url())


@dataclass(frozen=True, slots=True)
class Fault:
    """`away`: the gateway can do without it only, until it is over. Otherwise Redis goes on deciding."""

    name: str
    away: bool
    make: Callable[[Place], AbstractContextManager[list[int]]]


@contextmanager
def _stopped(place: Place) -> Iterator[list[int]]:
    place.valkey.kill()
    try:
        yield []
    finally:
        place.valkey.start()


@contextmanager
def _frozen(place: Place) -> Iterator[list[int]]:
    os.kill(place.valkey.pid, signal.SIGSTOP)
    try:
        yield []
    finally:
        os.kill(place.valkey.pid, signal.SIGCONT)


@contextmanager
def _repeated(action: Callable[[], object], seconds: float) -> Iterator[None]:
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _flushed(place: Place) -> Iterator[list[int]]:
    lost_ns: list[int] = []

    def flush() -> None:
        client.flushall()
        lost_ns.append(time.monotonic_ns())

    with place.client() as client, _repeated(flush, FLUSH_SECONDS):
        yield lost_ns


@contextmanager
def _out_of_memory(place: Place) -> Iterator[list[int]]:
    with place.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")  # less than it takes empty
        try:
            yield []
        finally:
            client.config_set("maxmemory", "0")


@contextmanager
def _evicting(place: Place) -> Iterator[list[int]]:
    """Room for some hundred keys, and others that write without end."""
    lost_ns: list[int] = []
    with place.client() as client, client.pubsub() as evictions:
        used = int(client.info("memory")["used_memory"])
        client.config_set("notify-keyspace-events", "Ke")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", str(used + ROOM_BYTES))
        evictions.subscribe(f"__keyspace@0__:{keyspace.plan_state(WATCHED)}")
        count = 0

        def fill() -> None:
            nonlocal count
            with client.pipeline(transaction=False) as pipeline:
                for _ in range(FILLERS):
                    count += 1
                    pipeline.set(f"filler:{count}", "x" * FILLER_BYTES, px=60_000)
                pipeline.execute(raise_on_error=False)
            while (message := evictions.get_message()) is not None:
                if message["type"] == "message" and message["data"] == b"evicted":
                    lost_ns.append(time.monotonic_ns())

        try:
            with _repeated(fill, FILL_SECONDS):
                yield lost_ns
        finally:
            assert client.info("stats")["evicted_keys"] > 0, "nothing was evicted"
            client.config_set("maxmemory", "0")


@contextmanager
def _faulty(place: Place, faults: Faults) -> Iterator[list[int]]:
    place.proxy.to_client = faults
    try:
        yield []
    finally:
        place.proxy.heal()


FAULTS = (
    Fault("stopped", True, _stopped),
    Fault("frozen", True, _frozen),
    Fault("flushed", False, _flushed),
    Fault("out-of-memory", True, _out_of_memory),
    Fault("evicting", False, _evicting),
    Fault("far-away", True, lambda place: _faulty(place, Faults(latency_seconds=LATENCY_SECONDS))),
    Fault("trickling", True, lambda place: _faulty(place, Faults(bytes_per_second=1))),
)
