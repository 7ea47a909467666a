"""A segment gives back what was put in, and damage costs what it hit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.gateway.usage.segment import (
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    DamagedFile,
    read_header,
    read_segment,
    scan,
)
from tests.gateway.usage.calls import call, open_spool, segment_files, spool_calls


def _framed(records: list[bytes], tail: bytes = bytes(64)) -> bytes:
    """A segment's bytes, made by hand from the description of the format."""
    from zlib import crc32

    data = bytearray(HEADER_BYTES)
    for record in records:
        data += FRAME.pack(crc32(record), len(record) + FRAME_BYTES) + record
        data += bytes(-len(data) % 8)
    return bytes(data) + tail


@given(st.lists(st.binary(max_size=300), max_size=20), st.sampled_from([b"", bytes(8), bytes(4096)]))
def test_any_records_come_back_in_order(records: list[bytes], tail: bytes) -> None:
    """For any records, empty ones among them, and any room left: all of them, in order, and no damage."""
    assert scan(_framed(records, tail))[:2] == (records, 0)
    assert scan(_framed(records, tail), len(records))[:2] == (records, 0)


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=8), st.data())
def test_a_write_that_stops_anywhere_leaves_all_records_before_it(records: list[bytes], data: st.DataObject) -> None:
    """Row 87: payload, CRC, length are stored in this order; wherever the process dies, the record under way is not there and
    the others are."""
    before, last = records[:-1], records[-1]
    whole = _framed(records, b"")
    start = len(_framed(before, b""))
    torn = bytearray(_framed(before, bytes(len(whole) - start)))
    stored = data.draw(st.integers(0, len(last)))
    torn[start + FRAME_BYTES : start + FRAME_BYTES + stored] = last[:stored]
    assert scan(bytes(torn))[:2] == (before, 0)
    torn[start + FRAME_BYTES : start + FRAME_BYTES + len(last)] = last
    torn[start : start + 4] = whole[start : start + 4]  # the CRC is there, the length not yet
    assert scan(bytes(torn))[:2] == (before, 0)


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=12), st.data())
def test_a_damaged_byte_costs_the_record_it_hits(records: list[bytes], data: st.DataObject) -> None:
    """Row 89: for any byte changed in any way, every other record is still read, and nothing is read that was not written."""
    framed = bytearray(_framed(records))
    at = data.draw(st.integers(HEADER_BYTES, len(framed) - 65))
    framed[at] ^= data.draw(st.integers(1, 255))
    found, _, _ = scan(bytes(framed), len(records))
    assert len(found) >= len(records) - 1
    missing = list(records)
    for record in found:
        missing.remove(record)


@pytest.mark.parametrize("padding", range(8))
def test_a_record_can_not_be_forged_inside_another(padding: int) -> None:
    """Without it: a client whose user agent looks like a frame gets rows of its own making once a byte is damaged."""
    forged = _framed([b"forged record of someone else"], b"")[HEADER_BYTES:]
    hidden = call("req-1", user_agent=b"x" * padding + forged)
    framed = bytearray(_framed([hidden, b"next"]))
    framed[HEADER_BYTES] ^= 1
    assert scan(bytes(framed), 2)[0] == [b"next"]


def test_a_sealed_segment_knows_what_it_held(spool_directory: Path) -> None:
    """Row 89: truncated file. Without the seal a file cut at the end of a record would look whole."""
    spool_calls(spool_directory, ["a", "b", "c"])
    [path] = segment_files(spool_directory, "sealed")
    whole = read_segment(path, None)
    assert whole is not None
    assert (len(whole.records), whole.lost) == (3, 0)
    end_of_second = HEADER_BYTES + sum((FRAME_BYTES + len(record) + 7) & -8 for record in whole.records[:2])
    with path.open("r+b") as file:
        file.truncate(end_of_second)
    cut = read_segment(path, None)
    assert cut is not None
    assert (len(cut.records), cut.lost) == (2, 1)


def test_a_segment_without_a_seal_is_held_against_the_counts_of_its_run(spool_directory: Path) -> None:
    """Row 89: a damaged file without a seal. Without it: what a killed worker left, and a disk damaged, would be delivered
    short and nobody told."""
    spool = open_spool(spool_directory)
    for number in range(5):
        spool.append(call(f"req-{number}"))
    [path] = segment_files(spool_directory, "open")
    whole = read_segment(path, 5)
    assert whole is not None
    assert (len(whole.records), whole.lost) == (5, 0)
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES)
        file.write(bytes(8))  # the first record's frame is gone: without the count it would look like an empty segment
    damaged = read_segment(path, 5)
    assert damaged is not None
    assert (len(damaged.records), damaged.lost) == (4, 1)
    spool.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_header_is_refused_by_name(spool_directory: Path, seed: int) -> None:
    """Row 89: corrupt header, future version. Without it: records read under the wrong run, or by the wrong layout."""
    spool_calls(spool_directory, ["a"])
    [path] = segment_files(spool_directory, "sealed")
    data = bytearray(path.read_bytes())
    data[random.Random(seed).randrange(136)] ^= 0x10
    with pytest.raises(DamagedFile):
        read_header(bytes(data))
    with pytest.raises(DamagedFile, match="too few"):
        read_header(bytes(data[:100]))
