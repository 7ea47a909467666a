"""A message says what it is, twice, and what is damaged of it costs what it hit."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.gateway.usage.portion import Portion, cut
from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.segment import Segment, read_segment
from ostiary.gateway.usage.stream.message import (
    EXCESS_BYTES_MAX,
    EndedName,
    EndedRun,
    Unreadable,
    decode,
    encode_ended,
    encode_portion,
    name_of,
    parse_subject,
)
from tests.gateway.usage.calls import call, open_spool, segment_files

SPOOL = UUID("8d7e2c3f-0b54-4bb7-9a38-000000000001")


def _segment(directory: Path) -> tuple[Segment, RunState]:
    spool = open_spool(directory, segment_bytes=1 << 20)
    for number in range(300):
        spool.append(call(f"req-{number}", user_agent=b"x" * (number % 90)))
    spool.close()
    (path,) = segment_files(directory, "sealed")
    segment = read_segment(path, None)
    assert segment is not None
    return segment, RunState(segment.header.run_id, "0", 1_700_000_000_000_000, 300, 0, closed=False)


@pytest.fixture(scope="module")
def portions(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Portion, bytes]]:
    segment, run = _segment(tmp_path_factory.mktemp("message"))
    return [(portion, encode_portion(portion, segment.file)) for portion in cut(SPOOL, segment, run, 1 << 15)]


def test_a_portion_comes_out_as_it_went_in(portions: list[tuple[Portion, bytes]]) -> None:
    """Its offsets too: by them the ledger tells what was written before."""
    assert len(portions) > 2
    for portion, payload in portions:
        subject = name_of(portion).subject("usage")
        assert parse_subject(subject) == name_of(portion)
        assert decode(subject, payload) == portion
        assert len(payload) <= (1 << 15) + EXCESS_BYTES_MAX


def test_the_last_word_on_a_run_comes_out_as_it_went_in() -> None:
    for closed in (True, False):
        run = RunState(uuid4(), "worker-3", 1_700_000_000_000_000, 12, 2, closed)
        name = EndedName(SPOOL, run.run_id, 12, 2, closed)
        assert parse_subject(name.subject("usage")) == name
        assert decode(name.subject("usage"), encode_ended(SPOOL, run)) == EndedRun(SPOOL, run)


@settings(deadline=None)
@given(st.data())
def test_damage_is_never_taken_for_calls_and_all_calls_are_accounted_for(
    portions: list[tuple[Portion, bytes]], data: st.DataObject
) -> None:
    """Row 89, of a stream: any bytes changed, or the end cut off. What is read is what was written; what is not is declared
    lost."""
    portion, payload = data.draw(st.sampled_from(portions))
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.one_of(st.integers(0, 300), st.integers(0, len(payload) - 1)))
        damaged[at] ^= data.draw(st.integers(1, 255))
    damaged = damaged[: data.draw(st.one_of(st.just(len(payload)), st.integers(0, len(payload))))]
    try:
        content = decode(name_of(portion).subject("usage"), bytes(damaged))
    except Unreadable as error:
        content = error.stands_for or portion  # of a newer version, it seems: kept, and counted when it is read
    assert isinstance(content, Portion)
    assert set(content.records) <= set(portion.records)
    assert len(content.records) + content.lost == len(portion.records)
    assert (content.first, content.until) == (portion.first, portion.until)


def test_a_newer_version_is_not_taken_for_damage(portions: list[tuple[Portion, bytes]]) -> None:
    """Row 89: a gateway was upgraded before its consumers. Declared lost, its calls could never be written any more."""
    portion, payload = portions[0]
    newer = bytearray(payload)
    newer[8] += 1
    with pytest.raises(Unreadable, match="version 2") as raised:
        decode(name_of(portion).subject("usage"), bytes(newer))
    assert raised.value.stands_for is None


@pytest.mark.parametrize(
    "subject",
    [
        "usage.other",
        "usage",
        "usage.x.portion.y.z.0.end.1.0",
        f"usage.{SPOOL.hex}.portion.{SPOOL.hex}.{SPOOL.hex}.-1.end.1.0",
        f"usage.{SPOOL.hex}.portion.{SPOOL.hex}.{SPOOL.hex}.0.end.{1 << 63}.0",
        f"usage.{SPOOL.hex}.portion.{SPOOL.hex}.{SPOOL.hex}.0.end.٣.0",
        f"usage.{SPOOL.hex}.ended.{SPOOL.hex}.1.0.maybe",
    ],
)
def test_subjects_of_others_are_told(subject: str) -> None:
    """Without it: whoever may publish there ends the consumer."""
    assert parse_subject(subject) is None
    with pytest.raises(Unreadable, match="none of usage's"):
        decode(subject, b"anything")


def test_a_message_under_the_subject_of_another_is_refused(portions: list[tuple[Portion, bytes]]) -> None:
    """Without it: the ledger marks one portion as written, and has the calls of another."""
    with pytest.raises(Unreadable, match="disagree"):
        decode(name_of(portions[1][0]).subject("usage"), portions[0][1])
