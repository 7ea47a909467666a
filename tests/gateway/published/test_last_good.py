"""The snapshot on disk: whole or not at all, and believed only if it is what was written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ostiary.core.published import RouteVersion, document_sha256
from ostiary.gateway.published.last_good import FILE_NAME, LastGood, SnapshotUnusable


def version(text: str = "version: 1\nroutes: []\n# é\n", number: int = 3) -> RouteVersion:
    return RouteVersion(number, text, document_sha256(text), 1_700_000_000.25)


def test_what_was_written_is_read_in_another_process(tmp_path: Path) -> None:
    """Row 117: a restart would have nothing to begin with."""
    directory = tmp_path / "new" / "state"
    LastGood(str(directory)).write(version())
    assert LastGood(str(directory)).read() == version()
    assert stat.S_IMODE((directory / FILE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert os.listdir(directory) == [FILE_NAME]
    assert LastGood(str(tmp_path)).read() is None
    assert LastGood(None).read() is None


def test_every_damage_is_found(tmp_path: Path) -> None:
    """Row 117: half of a document may be a valid one, with half of the routes; a changed bit may open one."""
    last_good = LastGood(str(tmp_path))
    last_good.write(version())
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole + b"\n", b"\0" * len(whole), b"[]\n", b'{"check": 1}\n']
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(SnapshotUnusable, match="is damaged"):
            last_good.read()
    path.write_bytes(whole)
    assert last_good.read() == version()


def test_a_file_that_others_could_have_written_is_not_read(tmp_path: Path) -> None:
    """Any account of the machine could say who may call what."""
    last_good = LastGood(str(tmp_path))
    last_good.write(version())
    (tmp_path / FILE_NAME).chmod(0o620)
    with pytest.raises(SnapshotUnusable, match="could have been written by others"):
        last_good.read()


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 117: a full disk would take the last good snapshot away, when it is needed next."""
    last_good = LastGood(str(tmp_path))
    last_good.write(version())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            last_good.write(version(number=4))
    assert os.listdir(tmp_path) == [FILE_NAME]
    assert last_good.read() == version()
    last_good.write(version(number=4))
    assert last_good.read() == version(number=4)


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    state = tmp_path / "state"
    state.mkdir()
    (state / f"{FILE_NAME}.{os.getpid()}.new").symlink_to(victim)
    with pytest.raises(OSError):
        LastGood(str(state)).write(version())
    assert victim.read_text() == "precious"
