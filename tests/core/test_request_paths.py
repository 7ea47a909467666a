"""A plain path is one that every server reads alike; normalizing a path gives a plain one, and gives it once and for all."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ostiary.core.request_paths import is_plain, normalize

# Made of what paths go wrong by: dots, slashes, escapes of them, escapes of escapes, controls, bytes above ASCII.
_PARTS = st.sampled_from(
    b"/ // . .. %2e %2E %252e %2f %5c \\ ; ;x=1 %00 %0a %7f % %zz %25 %c3%a9 %C3 a b %61 ~ %7e %7E | # \xc3\xa9 %3b".split(
        b" "
    )
)
paths = st.lists(st.one_of(_PARTS, st.binary(max_size=3)), max_size=12).map(lambda parts: b"/" + b"".join(parts))


@given(paths)
@example(b"/a/%2e%2e/b")
@example(b"/a/..;/b")
@example(b"/%252e%252e/")
def test_what_normalize_gives_is_plain_and_stays_as_it_is(path: bytes) -> None:
    """Rows 38, 39: normalizing once must be enough; a second server that normalizes again must find nothing to do."""
    once = normalize(path)
    if once is not None:
        assert is_plain(once)
        assert normalize(once) == once


@given(paths)
def test_a_plain_path_means_the_same_however_often_it_is_read(path: bytes) -> None:
    """Rows 38-41: decoded once or twice and resolved as a file system does, a plain path has the same number of segments: it
    leads nowhere else."""
    if not is_plain(path):
        return
    for form in (path, unquote_to_bytes(path), unquote_to_bytes(unquote_to_bytes(path))):
        assert form.count(b"/") == path.count(b"/")
        resolved = posixpath.normpath(form.rstrip(b"/") or b"/")
        assert resolved == (form.rstrip(b"/") or b"/")
        assert b"\\" not in form
        assert b"\0" not in form


@given(paths)
def test_a_plain_path_normalizes_to_an_equivalent_one(path: bytes) -> None:
    """Asking for `paths: normalize` must not change what a path names that was plain before."""
    if is_plain(path):
        normalized = normalize(path)
        assert normalized is not None
        assert unquote_to_bytes(normalized) == unquote_to_bytes(path)


@pytest.mark.parametrize(
    ("path", "normalized"),
    [
        (b"/a/../b", b"/b"),
        (b"/a/./b/", b"/a/b/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/.", b"/a/b/"),
        (b"//a///b//", b"/a/b/"),
        (b"/a/%2e%2E/%62", b"/b"),
        (b"/%7euser/%c3%a9", b"/~user/%C3%A9"),
        (b"/..", None),
        (b"/a/../../b", None),
        (b"/a%2fb", None),
        (b"/a%252fb", None),
        (b"/a%5cb", None),
        (b"/a\\b", None),
        (b"/a/..;/b", None),
        (b"/a%00", None),
        (b"/a%0d%0ab", None),
        (b"/a%", None),
        (b"/a%zz", None),
        (b"/%ff", None),
        (b"/a#b", None),
    ],
)
def test_normalize_resolves_once_what_is_certain_and_refuses_the_rest(path: bytes, normalized: bytes | None) -> None:
    """Rows 38-42: each of these is read differently by some server."""
    assert not is_plain(path) or path == b"/%7euser/%c3%a9"
    assert normalize(path) == normalized
