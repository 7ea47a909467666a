"""A body of any size passes at constant memory, whoever is slow. `scripts/prove large_bodies` does the same with 1 GiB."""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Iterator

import pytest

from ostiary.gateway.wire.client import WRITE_HIGH_BYTES
from tests.acceptance import stack
from tests.acceptance.large_bodies import (
    FRAMES,
    GROWTH_BYTES_MAX,
    MIB,
    Download,
    ResidentMemory,
    Upload,
    ask,
    bytes_sent_by_origin,
    once_it_stands_still,
    resident_bytes,
    under_way_bytes_max,
)
from tests.support.gateway_process import GatewayProcess, eventually

SIZE = 1024 * MIB
SLOW_SIZE = 256 * MIB
SLOW_READERS = 40
LOOP_READ_BYTES = 256_000  # what uvloop reads at a time, and hands over in one piece
CONNECTION_BYTES_MAX = 16 * 1024  # of a connection without what it passes on; each reader has two
WRITE_TIMEOUT_SECONDS = 4.0


@pytest.fixture(scope="module")
def origin_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with stack.raw_origin(tmp_path_factory.mktemp("origin")) as port:
        yield port


@pytest.fixture(scope="module")
def gateway(origin_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One worker."""
    directory = tmp_path_factory.mktemp("gateway")
    timeout = f"{WRITE_TIMEOUT_SECONDS:.0f}s"
    with stack.gateway(directory, {"/**": origin_port}, workers=1, write_timeout=timeout) as gateway:
        ask(gateway.port, "/raw/sent")  # what a first call takes is no matter of its size
        yield gateway


@pytest.fixture(scope="module")
def rest_bytes(gateway: GatewayProcess) -> int:
    """The worker's memory before the first large body."""
    (pid,) = gateway.worker_pids()
    return resident_bytes(pid)


@pytest.fixture
def memory(gateway: GatewayProcess, rest_bytes: int) -> Iterator[ResidentMemory]:
    """Of the worker, over the test; it must not have grown, whatever it has passed on."""
    (pid,) = gateway.worker_pids()
    with ResidentMemory(pid, since_bytes=rest_bytes) as memory:
        yield memory
    assert memory.growth_bytes <= GROWTH_BYTES_MAX, f"grew by {memory.growth_bytes / MIB:.1f} MiB"


@pytest.mark.parametrize("frame", FRAMES)
def test_a_large_answer_passes_at_constant_memory(frame: str, gateway: GatewayProcess, memory: ResidentMemory) -> None:
    """A gateway that gathers what it passes on falls to its first large download."""
    Download(gateway.port, SIZE, frame).read_rest()


@pytest.mark.parametrize("frame", FRAMES)
def test_a_large_request_passes_at_constant_memory(frame: str, gateway: GatewayProcess, memory: ResidentMemory) -> None:
    """The same for uploads."""
    Upload(gateway.port, SIZE, frame).run()


@pytest.mark.parametrize("frame", FRAMES)
def test_a_slow_reader_holds_its_upstream_back(
    frame: str, gateway: GatewayProcess, origin_port: int, memory: ResidentMemory
) -> None:
    """Row 104: the difference between a fast upstream and a slow client would pile up in the worker."""
    download = Download(gateway.port, SLOW_SIZE, frame, receive_buffer_bytes=64 * 1024)
    held = once_it_stands_still(lambda: bytes_sent_by_origin(origin_port), "the origin is held back")
    assert held <= under_way_bytes_max()
    slow_until = time.monotonic() + 1.5
    while time.monotonic() < slow_until:
        download.read(16 * 1024)
        time.sleep(0.005)  # the reader's pace
    assert bytes_sent_by_origin(origin_port) <= download.read_bytes + under_way_bytes_max()
    download.read_rest()


@pytest.mark.parametrize("frame", FRAMES)
def test_a_slow_upstream_holds_its_client_back(
    frame: str, gateway: GatewayProcess, origin_port: int, memory: ResidentMemory
) -> None:
    """Row 104, the other way round: an upload that its upstream does not read must wait with the client."""
    upload = Upload(gateway.port, SLOW_SIZE, frame, hold=True)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            upload.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    held = once_it_stands_still(lambda: upload.sent_bytes, "the client is held back")
    assert held <= under_way_bytes_max()
    ask(origin_port, "/raw/release")
    thread.join(60)
    assert failures == []
    assert upload.sent_bytes == SLOW_SIZE


def test_a_client_that_stops_reading_is_ended_and_its_upstream_freed(
    gateway: GatewayProcess, origin_port: int, memory: ResidentMemory
) -> None:
    """Row 35: clients that ask and never read would keep connections and upstreams for ever."""
    began = time.monotonic()
    download = Download(gateway.port, SLOW_SIZE, "length", receive_buffer_bytes=64 * 1024)
    watch = select.poll()
    watch.register(download.socket, 0)  # errors and hang-ups alone: it reads nothing
    # Twice: what the system took in the first span counts as progress.
    (fired,) = watch.poll((2 * WRITE_TIMEOUT_SECONDS + 2) * 1000) or [(0, 0)]
    assert fired[1] & (select.POLLHUP | select.POLLERR)
    assert time.monotonic() - began >= WRITE_TIMEOUT_SECONDS
    eventually(lambda: json.loads(ask(origin_port, "/raw/sent"))["open"] == 0, "the origin is let go", 1.0)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_slow_reader_costs_at_most_the_high_water_mark_and_two_reads(
    frame: str, gateway: GatewayProcess, origin_port: int
) -> None:
    """Row 104: per connection, measured over many of them: a bound that holds for one alone may be a hundred times too high
    for a hundred. Two reads, because what is under way to the client is held whole until its last byte is written, while
    the bytes that are left of it are all that counts towards the mark. The last test here, for what the worker has once had
    it may keep for the next."""
    (pid,) = gateway.worker_pids()
    before = resident_bytes(pid)
    with ResidentMemory(pid, since_bytes=before) as memory:
        downloads = [
            Download(gateway.port, SLOW_SIZE, frame, receive_buffer_bytes=64 * 1024) for _ in range(SLOW_READERS)
        ]
        once_it_stands_still(lambda: bytes_sent_by_origin(origin_port), "the origin is held back")
        for download in downloads:
            download.read(64 * 1024)
        once_it_stands_still(lambda: bytes_sent_by_origin(origin_port), "the origin is held back again")
    for download in downloads:
        download.close()
    assert memory.growth_bytes <= SLOW_READERS * (WRITE_HIGH_BYTES + 2 * LOOP_READ_BYTES + 2 * CONNECTION_BYTES_MAX)
    eventually(lambda: json.loads(ask(origin_port, "/raw/sent"))["open"] == 0, "the origin is let go", 2.0)
