from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import pytest

from benchmarks.requests import (
    KEY_ID,
    SECRET,
    body_signed_request,
    signed_request,
    signed_requests,
    unchanging_request,
    write_signed,
    write_unchanging,
)

TARGET = "/v1/clients?limit=10"


def headers_of(request: bytes) -> dict[str, str]:
    head = request.decode().removesuffix("\r\n\r\n").split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in head)


def test_every_signature_is_that_of_the_contract() -> None:
    """Refused requests would be measured in place of served ones."""
    for request in signed_requests(TARGET, 50, now=1_800_000_000):
        headers = headers_of(request)
        key_id, signature = headers["X-API-Key"].split(":")
        digest = hashlib.sha256(b"").hexdigest()
        message = "\n".join(["GET", TARGET, headers["X-Timestamp"], headers["X-Nonce"], digest])
        assert key_id == KEY_ID
        assert signature == hmac.new(SECRET.encode(), message.encode(), hashlib.sha256).hexdigest()
        assert abs(int(headers["X-Timestamp"]) - 1_800_000_000) < 60
        assert re.fullmatch(r"[A-Za-z0-9_-]{16,64}", headers["X-Nonce"])


def test_the_unchanging_signature_is_that_of_the_reference_peers() -> None:
    """The peers' figures are of requests that they accept."""
    signature = hmac.new(SECRET.encode(), f"GET\n{TARGET}\n".encode(), hashlib.sha256).hexdigest()
    assert headers_of(unchanging_request(TARGET))["X-API-Key"] == f"{KEY_ID}:{signature}"


def test_a_signature_over_the_body_is_that_of_the_contract() -> None:
    """The job with leased limits would be measured refusing."""
    signature = hmac.new(SECRET.encode(), b"", hashlib.sha256).hexdigest()
    assert headers_of(body_signed_request(TARGET))["X-API-Key"] == f"{KEY_ID}:{signature}"


def test_another_secret_gives_another_signature() -> None:
    """The probe for forged requests would otherwise probe nothing."""
    forged = signed_request(TARGET, timestamp=1, nonce="n" * 16, secret="another")
    assert forged != signed_request(TARGET, timestamp=1, nonce="n" * 16)


def test_no_nonce_is_used_twice_in_or_between_series() -> None:
    """A replay is refused: the run would measure refusals."""
    requests = [*signed_requests(TARGET, 500, now=1), *signed_requests(TARGET, 500, now=1)]
    assert len({headers_of(request)["X-Nonce"] for request in requests}) == 1000


def test_six_headers_besides_host_and_what_the_nonce_needs() -> None:
    """The number of headers is part of what is compared."""
    unchanging, signed = (
        headers_of(unchanging_request(TARGET)),
        headers_of(signed_request(TARGET, timestamp=1, nonce="n" * 16)),
    )
    assert len(unchanging.keys() - {"Host"}) == 6
    assert signed.keys() - unchanging.keys() == {"X-Timestamp", "X-Nonce"}


def test_a_file_of_signed_requests_is_cut_by_their_length(tmp_path: Path) -> None:
    """The load generator reads so many bytes for each request; one of another length would shift all that follow."""
    file = write_signed(tmp_path / "requests", TARGET, 200)
    content = file.path.read_bytes()
    assert len(content) == 200 * file.request_bytes
    for start in range(0, len(content), file.request_bytes):
        request = content[start : start + file.request_bytes]
        assert request.startswith(b"GET /v1/clients?limit=10 HTTP/1.1\r\n")
        assert request.endswith(b"\r\n\r\n")
        assert request.count(b"\r\n\r\n") == 1
    with pytest.raises(ValueError, match="at least one"):
        write_signed(tmp_path / "none", TARGET, 0)


def test_a_file_of_one_request_is_that_request(tmp_path: Path) -> None:
    """What is sent over and over must be a whole request."""
    file = write_unchanging(tmp_path / "request", TARGET)
    assert file.path.read_bytes() == unchanging_request(TARGET)
    assert (file.request_bytes, file.count) == (len(unchanging_request(TARGET)), 1)
