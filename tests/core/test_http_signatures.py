"""RFC 9421 and RFC 9530 by their own examples, and the quick reading of a signature against the thorough one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core import http_signatures
from ostiary.core.content_digest import (
    Digest,
    content_digest,
    parse_content_digest,
    parse_content_digest_at_length,
)
from ostiary.core.http_signatures import Claim, SignatureRefused, read_claim, read_claim_at_length
from ostiary.core.signature_base import SignedMessage, Uncoverable, recipe_of
from ostiary.core.signing import Signer
from ostiary.core.structured_fields import Malformed, parse_dictionary

# RFC 9421 Appendix B.1.5 and B.2.
SHARED_SECRET = base64.b64decode(
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
)
DIGEST = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
TEST_REQUEST = SignedMessage(
    b"POST",
    b"https",
    b"example.com",
    b"/foo?param=Value&Pet=dog",
    [
        b"Date: Tue, 20 Apr 2021 02:07:55 GMT",
        b"Content-Type: application/json",
        b"Content-Digest: " + DIGEST.encode(),
        b"Content-Length: 18",
    ],
    {b"host": b"example.com"},
)


def base_of(message: SignedMessage, signature_input: str) -> str:
    """The signature base of a message for the one member of `Signature-Input`."""
    (member,) = parse_dictionary(signature_input.encode())
    return recipe_of(member.items).base(message, member.parameters_text).decode()


def test_the_hmac_vector_of_the_rfc_verifies() -> None:
    """RFC 9421 Appendix B.2.5."""
    base = base_of(
        TEST_REQUEST, 'sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    )
    assert base == (
        '"date": Tue, 20 Apr 2021 02:07:55 GMT\n'
        '"@authority": example.com\n'
        '"content-type": application/json\n'
        '"@signature-params": ("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    )
    assert Signer(SHARED_SECRET).verify_base64(base.encode(), b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=")


@pytest.mark.parametrize(
    ("signature_input", "base"),
    [
        (
            'sig-b21=();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"',
            '"@signature-params": ();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd"',
        ),
        (
            'sig-b22=("@authority" "content-digest" "@query-param";name="Pet");created=1618884473'
            ';keyid="test-key-rsa-pss";tag="header-example"',
            f'"@authority": example.com\n"content-digest": {DIGEST}\n"@query-param";name="Pet": dog\n'
            '"@signature-params": ("@authority" "content-digest" "@query-param";name="Pet");created=1618884473'
            ';keyid="test-key-rsa-pss";tag="header-example"',
        ),
        (
            'sig-b23=("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length")'
            ';created=1618884473;keyid="test-key-rsa-pss"',
            '"date": Tue, 20 Apr 2021 02:07:55 GMT\n"@method": POST\n"@path": /foo\n"@query": ?param=Value&Pet=dog\n'
            f'"@authority": example.com\n"content-type": application/json\n"content-digest": {DIGEST}\n'
            '"content-length": 18\n"@signature-params": ("date" "@method" "@path" "@query" "@authority" "content-type"'
            ' "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss"',
        ),
    ],
    ids=["B.2.1", "B.2.2", "B.2.3"],
)
def test_the_signature_bases_of_the_rfc_are_made(signature_input: str, base: str) -> None:
    """RFC 9421 Appendix B.2: other algorithms sign the same text."""
    assert base_of(TEST_REQUEST, signature_input) == base


# RFC 9421 §2.1: the fields of the example message, and the dictionary of §2.1.2.
FIELDS = SignedMessage(
    b"GET",
    b"https",
    b"www.example.com",
    b"/path?param=value&foo=bar&baz=batman&qux=",
    [
        b"Date: Tue, 20 Apr 2021 02:07:56 GMT",
        b"Cache-Control: max-age=60",
        b"Cache-Control:    must-revalidate",
        b"X-Empty-Header: ",
        b"Example-Dict:  a=1,    b=2;x=1;y=2,   c=(a   b   c), d",
        b"Example-Header: value, with, lots",
        b"Example-Header: of, commas",
    ],
    {b"host": b"www.example.com"},
)


@pytest.mark.parametrize(
    ("component", "value"),
    [
        ('"host"', "www.example.com"),
        ('"cache-control"', "max-age=60, must-revalidate"),
        ('"x-empty-header"', ""),
        ('"example-dict"', "a=1,    b=2;x=1;y=2,   c=(a   b   c), d"),
        ('"example-dict";key="a"', "1"),
        ('"example-dict";key="d"', "?1"),
        ('"example-dict";key="b"', "2;x=1;y=2"),
        ('"example-dict";key="c"', "(a b c)"),
        ('"example-header";bs', ":dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:"),
        ('"@target-uri"', "https://www.example.com/path?param=value&foo=bar&baz=batman&qux="),
        ('"@scheme"', "https"),
        ('"@path"', "/path"),
        ('"@query"', "?param=value&foo=bar&baz=batman&qux="),
        ('"@query-param";name="baz"', "batman"),
        ('"@query-param";name="qux"', ""),
        ('"@query-param";name="param"', "value"),
    ],
)
def test_component_values_are_those_of_the_rfc(component: str, value: str) -> None:
    """RFC 9421 §2.1 and §2.2, by the examples there."""
    assert base_of(FIELDS, f"s=({component})").split("\n")[0] == f"{component}: {value}"


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("?var=this%20is%20a%20big%0Avalue&bar=with+plus+whitespace", "var", "this%20is%20a%20big%0Avalue"),
        ("?var=x&bar=with+plus+whitespace", "bar", "with%20plus%20whitespace"),
        ("?fa%C3%A7ade%22%3A%20=something", "fa%C3%A7ade%22%3A%20", "something"),
        ("?a=~*-._!", "a", "%7E*-._%21"),
    ],
)
def test_query_parameters_are_encoded_as_the_rfc_has_it(query: str, name: str, value: str) -> None:
    """RFC 9421 §2.2.8: decoded as a form, encoded with percent signs."""
    message = SignedMessage(b"GET", b"https", b"www.example.com", b"/p" + query.encode(), [], {})
    assert base_of(message, f's=("@query-param";name="{name}")').split("\n")[0].endswith(f": {value}")


@pytest.mark.parametrize(
    ("scheme", "host", "authority"),
    [
        (b"http", b"WWW.Example.com", "www.example.com"),
        (b"http", b"a.test:80", "a.test"),
        (b"https", b"a.test:443", "a.test"),
        (b"https", b"a.test:80", "a.test:80"),
        (b"http", b"[::1]:8080", "[::1]:8080"),
    ],
)
def test_an_authority_is_lower_case_without_the_port_that_goes_without_saying(
    scheme: bytes, host: bytes, authority: str
) -> None:
    """RFC 9421 §2.2.3."""
    message = SignedMessage(b"GET", scheme, host, b"/", [], {})
    assert base_of(message, 's=("@authority")').startswith(f'"@authority": {authority}\n')


# RFC 9530 Appendix A and D: the representation with its newline; and RFC 9421's without.
@pytest.mark.parametrize(
    ("body", "algorithm", "digest"),
    [
        (b'{"hello": "world"}\n', "sha-256", "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg="),
        (
            b'{"hello": "world"}\n',
            "sha-512",
            "YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==",
        ),
        (b'{"hello": "world"}', "sha-256", "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE="),
        (b'{"hello": "world"}', "sha-512", DIGEST[9:-1]),
    ],
)
def test_the_digests_of_the_rfc_are_made_and_hold(body: bytes, algorithm: str, digest: str) -> None:
    """RFC 9530."""
    field = f"{algorithm}=:{digest}:"
    assert content_digest(body, algorithm) == field
    parsed = parse_content_digest(field.encode())
    octets = base64.b64decode(digest)
    assert parsed.holds(octets, octets)
    wrong = bytes([octets[0] ^ 1]) + octets[1:]
    assert not parsed.holds(wrong, wrong)
    assert not parsed.holds(None, None)


_BODIES = (b"", b"hello")
_FIELDS = [content_digest(body, algorithm) for body in _BODIES for algorithm in ("sha-256", "sha-512")]
DIGESTS = st.lists(
    st.sampled_from(
        [*_FIELDS, ", ", " ", ";x=1", "md5=:AAAA:", "sha-256=:", ":", "A" * 43 + "=", "A" * 42 + "B=", "="]
    ),
    max_size=3,
).map("".join) | st.tuples(st.sampled_from(_FIELDS), st.integers(0, 98), st.characters(codec="latin-1")).map(
    lambda change: change[0][: change[1]] + change[2] + change[0][change[1] + 1 :]
)


@settings(max_examples=1000, deadline=None)
@given(DIGESTS)
def test_a_digest_that_is_told_by_its_length_is_the_one_that_is_read(field: str) -> None:
    """For every field both ways find the same bodies to be those that it names; what only the quick one takes names none."""
    octets = field.encode("latin-1")
    read: Digest | None
    try:
        read = parse_content_digest_at_length(octets)
    except Malformed:
        read = None
    try:
        told = parse_content_digest(octets)
    except Malformed:
        assert read is None
        return
    if read is not None:
        assert (told.sha256, told.sha512) == (read.sha256, read.sha512)
    for body in _BODIES:
        assert told.is_of(body) == (read is not None and read.is_of(body))


def test_a_digest_field_is_bounded() -> None:
    """It is read before anyone is known."""
    with pytest.raises(Malformed):
        parse_content_digest(b"x=1, " * 300 + content_digest(b"").encode())


def test_what_takes_work_before_anyone_is_known_is_bounded() -> None:
    """A signature that is refused must not cost a worker more than one that is taken: fields and queries may be long, and
    components many."""
    many = SignedMessage(b"GET", b"http", b"a", b"/?" + b"&".join(b"a%d=%%41" % n for n in range(257)), [], {})
    with pytest.raises(Uncoverable, match="too many parameters"):
        base_of(many, 's=("@query-param";name="a1")')
    long = SignedMessage(b"GET", b"http", b"a", b"/", [b"X-D: " + b"a=1, " * 500 + b"b=1"], {})
    with pytest.raises(Uncoverable, match="too long"):
        base_of(long, 's=("x-d";key="b")')
    with pytest.raises(Uncoverable, match="more than 8"):
        base_of(FIELDS, "s=(" + " ".join(f'"example-dict";key="k{number}"' for number in range(9)) + ")")
    with pytest.raises(Uncoverable, match="more than 32"):
        base_of(FIELDS, "s=(" + " ".join(f'"x{number}"' for number in range(33)) + ")")


def test_recipes_that_are_remembered_are_bounded() -> None:
    """Clients choose components: they must not choose how much memory a worker takes."""
    parameters = ';created=1;keyid="ak_test_client";nonce="0123456789abcdef"'
    for number in range(3000):
        read_claim(f's=("x-{number}"){parameters}'.encode(), b"s=:" + b"A" * 43 + b"=:")
    assert 0 < len(http_signatures._leads) <= 1024


_PIECES = r"""
sig1=() ;created=1764421200 ;created=1000000000000000 ;created=999999999999999 ;tag="a;b" ;tag="" ;keyid="abc" ;keyid="a-bcd"
;nonce="short" ;nonce="0123456789abcdef"
;created=1764421200 ;created=007 ;created=0 ;created=?1 ;keyid="ak_test_client" ;keyid=ak_test ;keyid=12345678 ;x
;nonce="0123456789abcdef" ;nonce="0123456789;=()ab" ;alg="hmac-sha256" ;alg=hmac-sha256 ;expires=9 ;tag="ostiary"
;x="a\"b" ;x=1.0
"""
_LISTS = ('sig1=("@method" "@target-uri")', 'sig1=("@method"  "@target-uri")', 'a=("@method" "@target-uri")')
INPUTS = st.lists(st.sampled_from([", ", "; created=5", *_LISTS, *_PIECES.split()]), max_size=8).map("".join)
WHOLE = _LISTS[0] + ';created=5;keyid="ak_test_client";nonce="0123456789abcdef"'
_ZEROS = "A" * 42
MARKS = st.sampled_from(
    [
        *(f"{lead}{_ZEROS}{end}" for lead in ("sig1=:", "a=:") for end in ("A=:", "B=:", "A=:;a")),
        "sig1=:AAAA:",
        "sig1=1",
        "",
    ]
)


def _facts(claim: Claim) -> tuple[object, ...]:
    return (
        *(claim.recipe.text, claim.recipe.identifiers, claim.parameters, claim.key_id, claim.nonce, claim.created),
        *(claim.expires, claim.mark, claim.other_inputs, claim.other_signatures),
    )


@settings(max_examples=500, deadline=None)
@given(INPUTS | INPUTS.map(WHOLE.__add__), MARKS)
def test_the_quick_reading_is_the_thorough_one(signature_input: str, mark: str) -> None:
    """For every pair of fields both readings come to the same claim, or both refuse; but for a mark that is not canonical
    base64, which the quick one hands on, for no signature is spelled like it."""
    try:
        thorough = _facts(read_claim_at_length(signature_input.encode(), mark.encode()))
    except SignatureRefused:
        thorough = ()
    try:
        quick = _facts(read_claim(signature_input.encode(), mark.encode()))
    except SignatureRefused:
        quick = ()
    if thorough or not mark.endswith("B=:"):
        assert quick == thorough


def test_a_component_of_an_answer_is_refused_wherever_it_is_named() -> None:
    """Row 67: a request has no status; a signature that covers one was made for something else."""
    with pytest.raises(Uncoverable):
        base_of(FIELDS, 's=("@status")')
