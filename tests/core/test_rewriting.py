"""A rewritten path is the template with the sent parameters in it, byte for byte, and as plain as what was sent."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ostiary.core.model import Authentication, Environment, Match, Route, Scheme
from ostiary.core.request_paths import is_plain
from ostiary.core.rewriting import Rewriting
from ostiary.core.routing import RouteEntry, compile_routes


def rewritten(path: str, rewrite: str, target: bytes) -> bytes:
    """What becomes of `target` on a route for `path`; its parameters are those that the table finds."""
    route = Route(
        name="r",
        match=Match(path=path),
        upstreams={Environment.LIVE: "u"},
        authentication=Authentication(schemes=frozenset({Scheme.ANONYMOUS})),
    )
    sent = target.partition(b"?")[0]
    found = compile_routes([route]).match(b"a", sent, "GET")
    assert isinstance(found, RouteEntry)
    return Rewriting(path, rewrite).target(target, sent, found.parameters(sent))


@pytest.mark.parametrize(
    ("path", "rewrite", "target", "expected"),
    [
        ("/v1/clients/{id}", "/internal/clients/{id}", b"/v1/clients/7", b"/internal/clients/7"),
        (
            "/v1/clients/{id}",
            "/internal/{id}/x",
            b"/v1/clients/a%20b;c=1?q=%2F/../x",
            b"/internal/a%20b;c=1/x?q=%2F/../x",
        ),
        ("/{a}/{b}", "/x/{b}/{a}", b"/1/2", b"/x/2/1"),
        ("/v1/clients/{id}", "/fixed", b"/v1/clients/7/", b"/fixed"),
        ("/v1/**", "/internal/**", b"/v1/a/b%41/?x", b"/internal/a/b%41/?x"),
        ("/v1/**", "/internal/**", b"/v1", b"/internal"),
        ("/v1/**", "/internal/**", b"/v1/", b"/internal/"),
        ("/v1/**", "/internal/**", b"/%76%31/a", b"/internal/a"),
        ("/v1/**", "/**", b"/v1", b"/"),
        ("/v1/**", "/**", b"/v1/a", b"/a"),
        ("/v1/**", "/**", b"/v1?q", b"/?q"),
        ("/**", "/below/**", b"/", b"/below/"),
        ("/**", "/below/**", b"/a/b", b"/below/a/b"),
        ("/{tenant}/api/**", "/t/{tenant}/**", b"/acme/api/x/y", b"/t/acme/x/y"),
        ("/a", "/b/", b"/a", b"/b/"),
        ("/a", "/", b"/a?x=1", b"/?x=1"),
    ],
)
def test_the_path_is_replaced_and_the_rest_kept(path: str, rewrite: str, target: bytes, expected: bytes) -> None:
    """An upstream that gets another byte than was sent answers for another resource."""
    assert rewritten(path, rewrite, target) == expected


_SEGMENT = st.one_of(
    st.text("ab.%2eFf5cC;0:@", min_size=1, max_size=8),
    st.sampled_from(["..", ".", "%2e%2e", "%2F", "..;x", "%252e%252e", "%5c", "~", "%c3%a4", "%00"]),
)


@given(st.lists(_SEGMENT, min_size=1, max_size=4), st.booleans())
def test_no_parameter_steps_out_of_its_place(segments: list[str], closed: bool) -> None:
    """Row 39: for every path that is let in, what goes upstream is plain, below the prefix, and has as many segments as the
    template says."""
    sent = ("/v1/" + "/".join(segments) + ("/" if closed else "")).encode()
    assume(is_plain(sent))
    below = rewritten("/v1/**", "/internal/**", sent)
    assert is_plain(below)
    assert below == b"/internal" + sent[len("/v1") :]
    single = ("/v1/" + segments[0]).encode()
    assume(is_plain(single))
    one = rewritten("/v1/{id}", "/internal/{id}/edit", single)
    assert is_plain(one)
    assert one.split(b"/") == [b"", b"internal", segments[0].encode(), b"edit"]
