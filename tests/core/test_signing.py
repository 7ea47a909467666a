"""The schemes `hmac` and `hmac-body`, against the standard library's HMAC and against forgers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.model import Scheme
from ostiary.core.signing import (
    EMPTY_BODY_SHA256,
    Signer,
    Skew,
    ends_like_signed_text,
    hmac_message,
    nonce_is_well_formed,
    nonce_lifetime_seconds,
    parse_signed_credential,
    parse_timestamp,
    sign_request,
    timestamp_is_current,
)

KEY_ID = "ak_test_0123456789abcdefABCDEF"
SECRET = b"sk_test_" + b"s" * 49
METHOD, TARGET, TIMESTAMP, NONCE = b"POST", b"/v1/clients?page=2&q=a%20b", b"1700000000", b"n-_0123456789abcdef"
BODY = b'{"name": "Ada"}'


def independent_signature(secret: bytes, message: bytes) -> bytes:
    return hmac.new(secret, message, hashlib.sha256).hexdigest().encode()


# --- the MAC ----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.binary(max_size=5_000))
def test_signature_is_hmac_sha256(secret: bytes, message: bytes) -> None:
    """The kept hash states must give what RFC 2104 gives, for keys shorter and longer than a block too."""
    signer = Signer(secret)
    expected = independent_signature(secret, message)
    assert signer.sign(message) == expected
    assert signer.sign(message) == expected, "signing leaves the signer as it was"
    assert signer.verify(message, expected)


@pytest.mark.parametrize("length", [0, 1, 32, 63, 64, 65, 128, 256])
def test_signature_is_hmac_sha256_at_the_block_edge(length: int) -> None:
    """Keys of exactly a block are used as they are, longer ones hashed (RFC 2104 §2)."""
    secret = bytes(range(length % 256)) or b"k" * length
    assert Signer(secret).sign(b"m") == independent_signature(secret, b"m")


def test_rfc_4231_vectors_hold() -> None:
    """Test cases 1, 2 and 6: the standard's own, from an implementation that is not Python's."""
    for key, data, expected in (
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ):
        assert Signer(key).sign(data).decode() == expected


def test_signer_shows_nothing_and_cannot_be_written_down() -> None:
    """Else a debug line or a pickle would carry the secret."""
    signer = Signer(SECRET)
    assert repr(signer) == str(signer) == "Signer()"
    with pytest.raises(TypeError):
        pickle.dumps(signer)


# --- what is signed -----------------------------------------------------------------------------------------------------


def test_message_is_the_five_parts_of_the_contract() -> None:
    """Other implementations sign the same octets."""
    message = hmac_message(b"GET", b"/v1/clients?x=1", b"1700000000", b"abcdefghijklmnop", EMPTY_BODY_SHA256)
    assert message == (
        b"GET\n/v1/clients?x=1\n1700000000\nabcdefghijklmnop\n"
        b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def signed(scheme: Scheme = Scheme.HMAC, body: bytes = BODY) -> dict[str, str]:
    return sign_request(
        key_id=KEY_ID,
        secret=SECRET,
        method=METHOD.decode(),
        target=TARGET.decode(),
        body=body,
        scheme=scheme,
        timestamp=int(TIMESTAMP),
        nonce=NONCE.decode(),
    )


def test_signed_request_is_what_any_client_would_compute() -> None:
    """Worked out with the standard library alone, as the contract describes it."""
    message = b"\n".join((METHOD, TARGET, TIMESTAMP, NONCE, hashlib.sha256(BODY).hexdigest().encode()))
    assert signed() == {
        "X-API-Key": f"{KEY_ID}:{independent_signature(SECRET, message).decode()}",
        "X-Timestamp": TIMESTAMP.decode(),
        "X-Nonce": NONCE.decode(),
    }


def test_body_signature_is_over_the_body_alone() -> None:
    """Scheme `hmac-body` has no timestamp and no nonce."""
    assert signed(Scheme.HMAC_BODY) == {"X-API-Key": f"{KEY_ID}:{independent_signature(SECRET, BODY).decode()}"}


def test_text_of_another_scheme_is_not_signed_as_a_body() -> None:
    """Whoever has that signature could make a call of it, on any route that takes the other scheme."""
    text = hmac_message(b"DELETE", b"/v1/clients/7", TIMESTAMP, NONCE, EMPTY_BODY_SHA256)
    for body in (text, b"x\n" + text, b'"@method": GET\n"@signature-params": ("@method");created=1'):
        assert ends_like_signed_text(body)
        with pytest.raises(ValueError, match="another scheme"):
            signed(Scheme.HMAC_BODY, body)
    for body in (
        b"",
        BODY,
        text + b"\n",
        text[:-1],
        text.upper(),
        text.replace(b"\n", b" "),
        EMPTY_BODY_SHA256,
        b"\n" * 9,
    ):
        assert not ends_like_signed_text(body)


def test_no_body_and_an_empty_body_are_signed_alike() -> None:
    """Row 60: a client can't know whether `Content-Length: 0` will be sent."""
    assert hashlib.sha256(b"").hexdigest().encode() == EMPTY_BODY_SHA256
    message = hmac_message(METHOD, TARGET, TIMESTAMP, NONCE, EMPTY_BODY_SHA256)
    assert signed(body=b"")["X-API-Key"].endswith(independent_signature(SECRET, message).decode())


def test_each_request_gets_its_own_nonce_and_the_present_time() -> None:
    """Else the second call of a client would be a replay."""
    first, second = (sign_request(key_id=KEY_ID, secret=SECRET, method="GET", target="/") for _ in range(2))
    assert first["X-Nonce"] != second["X-Nonce"]
    assert nonce_is_well_formed(first["X-Nonce"].encode())
    assert parse_timestamp(first["X-Timestamp"].encode()) is not None


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"key_id": "a:b"}, "key id"),
        ({"method": "GET /"}, "method"),
        ({"target": "/a b"}, "percent-encode"),
        ({"target": "/a\nb"}, "percent-encode"),
        ({"target": "/é"}, "percent-encode"),
        ({"target": ""}, "percent-encode"),
        ({"timestamp": -1}, "Unix seconds"),
        ({"timestamp": 10**12}, "Unix seconds"),
        ({"nonce": "short"}, "nonce"),
        ({"nonce": "n" * 65}, "nonce"),
        ({"scheme": Scheme.BEARER}, "signs nothing"),
    ],
)
def test_what_no_gateway_would_take_is_not_signed(wrong: dict[str, object], text: str) -> None:
    """Else a client would learn of it by a 401 that does not say why."""
    request: dict[str, object] = {"key_id": KEY_ID, "secret": SECRET, "method": "GET", "target": "/", **wrong}
    with pytest.raises(ValueError, match=text) as raised:
        sign_request(**request)  # type: ignore[arg-type]
    assert SECRET.decode() not in str(raised.value)


# --- forgers ------------------------------------------------------------------------------------------------------------


def accepted(
    signer: Signer, method: bytes, target: bytes, timestamp: bytes, nonce: bytes, body: bytes, credential: bytes
) -> bool:
    """What the gateway does with a request of scheme `hmac`, put together from the parts of this module."""
    parsed = parse_signed_credential(credential)
    if parsed is None or parsed[0] != KEY_ID or parse_timestamp(timestamp) is None or not nonce_is_well_formed(nonce):
        return False
    digest = hashlib.sha256(body).hexdigest().encode()
    return signer.verify(hmac_message(method, target, timestamp, nonce, digest), parsed[1])


def replaced(parts: tuple[bytes, ...], index: int, part: bytes) -> list[bytes]:
    return [*parts[:index], part, *parts[index + 1 :]]


def test_no_mutation_of_a_signed_request_is_accepted() -> None:
    """Row 55: one bit flipped, at every place of method, target, timestamp, nonce, body, key id and signature, and more than
    10 000 random changes besides. The gateway's half of this row goes over the wire."""
    signer = Signer(SECRET)
    parts = (METHOD, TARGET, TIMESTAMP, NONCE, BODY, signed()["X-API-Key"].encode())
    assert accepted(signer, *parts)
    mutants = 0
    for index, part in enumerate(parts):
        for place in range(len(part)):
            for bit in range(8):
                flipped = part[:place] + bytes([part[place] ^ 1 << bit]) + part[place + 1 :]
                assert not accepted(signer, *replaced(parts, index, flipped)), (index, place, bit)
                mutants += 1
    chance = random.Random(55)
    while mutants < 12_000:
        index = chance.randrange(len(parts))
        part = parts[index]
        start, length = chance.randrange(len(part) + 1), chance.randrange(4)
        mutant = part[:start] + chance.randbytes(chance.randrange(4)) + part[start + length :]
        if mutant != part:
            assert not accepted(signer, *replaced(parts, index, mutant)), (index, mutant)
            mutants += 1


def test_octets_moved_between_parts_are_not_the_same_request() -> None:
    """Row 55: where one part ends and the next begins is signed too."""
    signer = Signer(SECRET)
    credential = signed()["X-API-Key"].encode()
    for method, target in ((METHOD + TARGET[:1], TARGET[1:]), (METHOD[:-1], METHOD[-1:] + TARGET)):
        assert not accepted(signer, method, target, TIMESTAMP, NONCE, BODY, credential)
    assert not accepted(signer, METHOD, TARGET, TIMESTAMP + b"1", NONCE[1:], BODY, credential)


def test_only_the_exact_octets_of_the_target_are_valid() -> None:
    """Row 64: another spelling of the same target is another target."""
    signer = Signer(SECRET)
    credential = signed()["X-API-Key"].encode()
    for other in (
        b"/v1/clients?page=2&q=a+b",
        b"/v1/clients?q=a%20b&page=2",
        b"/v1/clients?page=2&q=a%20b&",
        b"/v1/%63lients?page=2&q=a%20b",
        b"/V1/clients?page=2&q=a%20b",
        b"/v1/clients/?page=2&q=a%20b",
    ):
        assert not accepted(signer, METHOD, other, TIMESTAMP, NONCE, BODY, credential)


# --- parsers ------------------------------------------------------------------------------------------------------------

SIGNATURE = independent_signature(SECRET, b"message")


def test_well_formed_credential_is_taken_apart() -> None:
    """The id is text, since keys are known by it; the signature stays octets, as it is compared."""
    assert parse_signed_credential(KEY_ID.encode() + b":" + SIGNATURE) == (KEY_ID, SIGNATURE)
    assert parse_signed_credential(b"abcd:" + SIGNATURE) == ("abcd", SIGNATURE)
    assert parse_signed_credential(b"a" * 64 + b":" + SIGNATURE) == ("a" * 64, SIGNATURE)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b":",
        b"ak_test_x",
        b"ak_test_x:",
        b":" + SIGNATURE,
        b"ak_test_x::" + SIGNATURE,
        b"ak_test_x:" + SIGNATURE + b":",
        b"a:b:c:" + SIGNATURE,
        b" ak_test_x:" + SIGNATURE,
        b"ak_test_x:" + SIGNATURE + b" ",
        b"ak_test_x:\t" + SIGNATURE,
        b"ak_test_x:" + SIGNATURE + b"\n",
        b"ak_test_x:" + SIGNATURE + b",ak_test_x:" + SIGNATURE,
        b"abc:" + SIGNATURE,
        b"a" * 65 + b":" + SIGNATURE,
        b"ak-test-x:" + SIGNATURE,
        "ak_test_é:".encode() + SIGNATURE,
        b"ak_test_\x00:" + SIGNATURE,
        b"x" * 10_240,
    ],
)
def test_malformed_credential_is_refused(value: bytes) -> None:
    """Row 50: empty, `:`, no signature, more colons, 10 KiB, non-ASCII, blanks around, NUL. Row 51: two joined by a comma."""
    assert parse_signed_credential(value) is None


def test_signature_in_another_spelling_or_length_is_refused() -> None:
    """Row 56: upper-case hex, base64, 0 to 63 characters, 65 and more. Else a prefix of a signature could be guessed octet by
    octet, and one signature would have many spellings."""
    raw = bytes.fromhex(SIGNATURE.decode())
    lead = KEY_ID.encode() + b":"
    wrong = [SIGNATURE[:length] for length in range(64)]
    wrong += [SIGNATURE.upper(), SIGNATURE.title(), base64.b64encode(raw), base64.urlsafe_b64encode(raw), raw]
    wrong += [SIGNATURE + b"0", SIGNATURE * 2, b"0x" + SIGNATURE, SIGNATURE[:-1] + b"g", b"sha256=" + SIGNATURE]
    for signature in wrong:
        if signature.lower() == SIGNATURE and signature == SIGNATURE:
            continue
        assert parse_signed_credential(lead + signature) is None, signature
        assert not Signer(SECRET).verify(b"message", signature), signature


@given(st.binary(max_size=200))
def test_any_octets_are_judged_without_an_error(value: bytes) -> None:
    """Row 50: what a client sends never raises."""
    parsed = parse_signed_credential(value)
    assert parsed is None or value == parsed[0].encode() + b":" + parsed[1]
    timestamp = parse_timestamp(value)
    assert timestamp is None or 0 <= timestamp < 10**12
    assert not nonce_is_well_formed(value) or 16 <= len(value) <= 64


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-1",
        b"+1",
        b" 1",
        b"1 ",
        b"1\n",
        b"1.0",
        b"1e9",
        b"1_0",
        b"0x10",
        b"1700000000000",
        b"1" * 20,
        b"1" * 5_000,
        "١٢٣".encode(),
        b"\xb2",
        b"now",
    ],
)
def test_timestamp_in_another_form_is_refused(value: bytes) -> None:
    """Row 58: negative, float, 20 digits, milliseconds, missing, and what Python's int() would take besides."""
    assert parse_timestamp(value) is None


def test_timestamp_is_decimal_seconds() -> None:
    """Row 58: 1 to 12 digits."""
    assert parse_timestamp(b"1700000000") == 1_700_000_000
    assert parse_timestamp(b"0") == 0
    assert parse_timestamp(b"9" * 12) == 10**12 - 1


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize(("away", "current"), [(0, True), (299, True), (300, True), (301, False), (10**9, False)])
def test_edge_of_the_skew_is_exact_in_both_directions(away: int, current: bool, fraction: float) -> None:
    """Row 58: ±299 and ±300 s are taken, ±301 s is not, whatever part of a second has passed."""
    now = 1_700_000_000
    for timestamp in (now - away, now + away):
        assert timestamp_is_current(timestamp, now=now + fraction, skew_seconds=300) is current


def test_nonce_outlives_every_moment_at_which_its_request_is_current() -> None:
    """Row 57: a request dated ahead as far as it may be is current for longer than twice the skew; were its nonce
    forgotten then, it could be replayed."""
    timestamp, skew = 1_700_000_300, 300
    taken_at = timestamp - skew
    assert timestamp_is_current(timestamp, now=taken_at, skew_seconds=skew)
    forgotten_at = taken_at + nonce_lifetime_seconds(skew)
    assert not timestamp_is_current(timestamp, now=forgotten_at, skew_seconds=skew)
    # Also by a gateway whose clock is three seconds behind.
    assert not timestamp_is_current(timestamp, now=forgotten_at - 3, skew_seconds=skew)


@given(
    old=st.integers(1, 3600),
    new=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 3600)), min_size=1, max_size=3),
    ahead=st.integers(-3600, 3600),
    taken_after=st.integers(0, 8000),
    sent_after=st.integers(0, 8000),
)
def test_no_change_of_the_skew_lets_a_call_in_twice(
    old: int, new: list[tuple[int, int]], ahead: int, taken_after: int, sent_after: int
) -> None:
    """Row 57: for any changes, a call that was taken under the skew of its time is refused once its nonce is forgotten. An
    operator who raised the skew would else let in what somebody has recorded."""
    at = 1_700_000_000
    skews = [(at, Skew(old))]
    for later, seconds in new:
        skews.append((skews[-1][0] + later, skews[-1][1].changed_to(seconds, skews[-1][0] + later)))

    def in_force(now: int) -> Skew:
        return [skew for since, skew in skews if since <= now][-1]

    taken_at = at + taken_after
    timestamp = taken_at + ahead
    if in_force(taken_at).takes(timestamp, taken_at):
        forgotten_at = taken_at + nonce_lifetime_seconds(in_force(taken_at).seconds)
        assert not in_force(forgotten_at + sent_after).takes(timestamp, forgotten_at + sent_after)


def test_a_raised_skew_holds_for_calls_of_after_it() -> None:
    """Else raising it would help nobody; and a lowered one holds at once, for all calls."""
    now = 1_700_000_000
    raised = Skew(300).changed_to(900, now)
    assert raised.takes(now + 600, now)
    assert raised.takes(now - 300, now)
    assert not raised.takes(now - 301, now), "which may have been taken before, and is forgotten"
    slow_by_ten_minutes = [raised.takes(moment - 600, moment) for moment in (now + 900, now + 901)]
    assert slow_by_ten_minutes == [False, True]
    assert raised.changed_to(900, now + 5) is raised
    lowered = raised.changed_to(10, now)
    assert lowered.takes(now + 10, now)
    assert not lowered.takes(now + 11, now)


def test_a_smaller_skew_of_others_holds_for_the_calls_that_they_may_have_taken() -> None:
    """Row 57: those alone, as long as one may be current, and however often it is heard of."""
    now = 1_700_000_000
    skew = Skew(900).heeding(60, now + 75, now)
    assert skew.takes(now - 60, now)
    assert not skew.takes(now - 61, now)
    assert not skew.takes(now + 74, now), "which nobody has taken yet; and nobody knows it"
    assert skew.takes(now + 75, now)
    assert skew.heeding(60, now + 75, now + 1) is skew
    assert skew.heeding(900, now + 75, now) is skew
    assert skew.heeding(0, 0, now) is skew
    least = skew.heeding(30, now + 40, now)
    assert not least.takes(now - 31, now)
    assert least.takes(now + 75, now)
    assert not least.takes(now + 74, now)
    late = now + 75 + 900
    assert skew.heeding(300, late, late) == Skew(900, 300, late), "the one before is of no call any more"
    assert Skew(900).heeding(60, now - 900, now) == Skew(900)


@pytest.mark.parametrize("nonce", [b"n" * 16, b"n" * 64, b"0123456789-_AZaz", b"----------------"])
def test_well_formed_nonce_is_taken(nonce: bytes) -> None:
    """16 to 64 of the URL-safe alphabet: UUIDs, hex and token_urlsafe all fit."""
    assert nonce_is_well_formed(nonce)


@pytest.mark.parametrize("nonce", [b"", b"n" * 15, b"n" * 65, b"n" * 16 + b"\n", b"n" * 15 + b"+", "é".encode() * 16])
def test_nonce_in_another_form_is_refused(nonce: bytes) -> None:
    """It becomes part of a key in Redis: short ones collide, long ones cost memory."""
    assert not nonce_is_well_formed(nonce)
