"""`ostiary sign` signs what will be sent, and keeps the secret to itself."""

from __future__ import annotations

import hashlib
import hmac
import shlex
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner, Result
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms

from ostiary.cli.main import main
from ostiary.cli.sign import request_target
from ostiary.core.credentials import generate_secret
from ostiary.core.model import Environment
from ostiary.core.signing import nonce_is_well_formed

KEY_ID = "ak_test_0123456789abcdefABCDEF"
SECRET = generate_secret(Environment.TEST)
NONCE = "n" * 22
FIXED = ("--key-id", KEY_ID, "--timestamp", "1700000000", "--nonce", NONCE)


def run(*arguments: str, secret: str | None = SECRET, typed: str | bytes | None = None) -> Result:
    environment = {"OSTIARY_SECRET": secret, "OSTIARY_KEY_ID": None}
    return CliRunner().invoke(main, ["sign", *arguments], env=environment, input=typed)


def hmac_sha256(message: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def signature(method: str, target: str, body: bytes = b"") -> str:
    parts = (method, target, "1700000000", NONCE, hashlib.sha256(body).hexdigest())
    return hmac_sha256("\n".join(parts).encode())


def test_headers_are_printed_one_a_line() -> None:
    """A script reads them."""
    result = run("GET", "http://127.0.0.1:8080/v1/clients?page=2", *FIXED)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"X-API-Key: {KEY_ID}:{signature('GET', '/v1/clients?page=2')}",
        "X-Timestamp: 1700000000",
        f"X-Nonce: {NONCE}",
    ]


def test_each_call_is_fresh_when_nothing_is_given() -> None:
    """Else the printed line would be refused as a replay."""
    nonces = {run("GET", "http://a/", "--key-id", KEY_ID).stdout.splitlines()[2] for _ in range(2)}
    assert len(nonces) == 2
    assert all(nonce_is_well_formed(nonce.removeprefix("X-Nonce: ").encode()) for nonce in nonces)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://api.example", "/"),
        ("http://api.example/", "/"),
        ("http://api.example?x=1", "/?x=1"),
        ("https://api.example:8443/v1/clients", "/v1/clients"),
        ("http://api.example/v1/%7Ea%2fb/./../c?b=2&a=1&a=%20+&e=", "/v1/%7Ea%2fb/./../c?b=2&a=1&a=%20+&e="),
        ("http://api.example/?", "/?"),
        ("http://api.example//a//b", "//a//b"),
        ("http://[::1]:8080/a?u=http://b/c", "/a?u=http://b/c"),
        ("HTTP://API.example/A", "/A"),
    ],
)
def test_target_is_signed_exactly_as_written(url: str, target: str) -> None:
    """Row 64: re-encoding, sorting or resolving would sign another request than the one that is sent."""
    assert request_target(url) == target
    assert f":{signature('GET', target)}\n" in run("GET", url, *FIXED).stdout


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("api.example/v1", "must begin with http://"),
        ("ftp://api.example/v1", "must begin with http://"),
        ("http://", "must begin with http://"),
        ("http://api.example/v1#top", "no fragment"),
        ("http://api.example/a b", "percent-encode"),
        ("http://api.example/é", "percent-encode"),
        ("http://api.ex\nample/v1", "percent-encode"),
    ],
)
def test_url_that_cannot_be_signed_is_refused_with_the_mend(url: str, mend: str) -> None:
    """Wrong usage: exit status 2."""
    result = run("GET", url, *FIXED)
    assert result.exit_code == 2
    assert mend in result.stderr


def test_body_is_signed_by_its_bytes(tmp_path: Path) -> None:
    """From an argument, a file and stdin alike; a file's last newline counts."""
    body = '{"name": "Ada \u00e9"}\n'.encode()
    file = tmp_path / "client.json"
    file.write_bytes(body)
    expected = f":{signature('POST', '/v1/clients', body)}\n"
    for arguments, typed in (((body.decode(),), None), ((f"@{file}",), None), (("@-",), body)):
        result = run("POST", "http://a/v1/clients", *FIXED, "-d", *arguments, typed=typed)
        assert expected in result.stdout
    assert run("POST", "http://a/", *FIXED, "-d", "@/nowhere").exit_code == 2


def test_body_scheme_signs_the_body_alone() -> None:
    """Scheme `hmac-body` prints one header."""
    result = run("POST", "http://a/x", "--key-id", KEY_ID, "--scheme", "hmac-body", "--body", "{}")
    assert result.stdout == f"X-API-Key: {KEY_ID}:{hmac_sha256(b'{}')}\n"


def test_method_is_signed_in_capitals() -> None:
    """Methods are case-sensitive, and `get` is none."""
    assert run("get", "http://a/", *FIXED).stdout == run("GET", "http://a/", *FIXED).stdout


# --- the secret -------------------------------------------------------------------------------------------------------


def test_secret_is_never_an_argument() -> None:
    """Row 132: arguments are readable by everyone in /proc and stay in shell histories; the help says so."""
    help_text = " ".join(run("--help").stdout.split())
    assert "can't be given as an argument" in help_text
    assert "Example:" in help_text
    result = run("GET", "http://a/", *FIXED, "--secret", SECRET)
    assert result.exit_code == 2
    assert SECRET not in result.output


def test_secret_is_read_from_a_file_without_its_newline(tmp_path: Path) -> None:
    """The file comes before the environment."""
    file = tmp_path / "key.secret"
    file.write_text(SECRET + "\n")
    expected = run("GET", "http://a/", *FIXED).stdout
    assert run("GET", "http://a/", *FIXED, "--secret-file", str(file), secret="of the environment").stdout == expected


def test_secret_is_asked_for_without_echo() -> None:
    """The prompt goes to stderr, so that what is printed is headers alone."""
    result = run("GET", "http://a/", *FIXED, secret=None, typed=f"{SECRET}\n")
    assert result.stdout == run("GET", "http://a/", *FIXED).stdout
    assert "Secret:" in result.stderr
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("secret", "mend"),
    [(" ", "is empty"), (SECRET[:-1] + ("0" if SECRET[-1] != "0" else "1"), "checksum")],
    ids=["empty", "mistyped"],
)
def test_useless_secret_is_refused_before_it_signs(secret: str, mend: str) -> None:
    """Else a typing error would show as a 401 that does not say why."""
    result = run("GET", "http://a/", *FIXED, secret=secret)
    assert result.exit_code == 2
    assert mend in result.stderr
    assert len(secret) == 1 or secret not in result.output


def test_secret_in_the_place_of_the_key_id_is_not_printed() -> None:
    """Else it would be sent in a header."""
    result = run("GET", "http://a/", "--key-id", SECRET)
    assert result.exit_code == 2
    assert SECRET not in result.output
    assert run("GET", "http://a/").exit_code == 2


# --- curl ---------------------------------------------------------------------------------------------------------------


def test_curl_line_is_safe_to_paste() -> None:
    """Else a URL with shell characters would run something else."""
    result = run("POST", "http://a/v1?a=1&b=$(id)", *FIXED, "--body", "it's; `ls`", "--curl")
    words = shlex.split(result.stdout)
    assert words[0] == "curl"
    assert words[-1] == "http://a/v1?a=1&b=$(id)"
    assert words[words.index("--data-binary") + 1] == "it's; `ls`"
    assert f"X-API-Key: {KEY_ID}:{signature('POST', '/v1?a=1&b=$(id)', b'it' + bytes([39]) + b's; `ls`')}" in words
    assert SECRET not in result.stdout
    assert run("POST", "http://a/", *FIXED, "--curl", "-d", "@-", typed="x").exit_code == 2


@pytest.mark.full
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", b""),
        ("GET", "?x=1", b""),
        ("GET", "/a/./../b//c%2fd?b=2&a=[1]&q={x}&e=", b""),
        ("HEAD", "/v1/clients", b""),
        ("DELETE", "/v1/clients/7", b""),
        ("POST", "/v1/clients", b'{"name":\r\n "Ada"}\n\n'),
        ("PUT", "/v1/clients/7", bytes(range(256))),
    ],
)
def test_curl_sends_what_was_signed(method: str, path: str, body: bytes, tmp_path: Path) -> None:
    """The line, pasted, arrives as a request whose signature holds for the very octets that arrived."""
    (tmp_path / "body").write_bytes(body)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}{path}"
        data = ("-d", f"@{tmp_path / 'body'}") if body else ()
        line = run(method, url, *FIXED, *data, "--curl").stdout
        received: list[bytes] = []
        answering = threading.Thread(target=_answer_one, args=(server, received))
        answering.start()
        done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=20, check=False)
        answering.join(20)
    assert done.returncode == 0, done.stderr
    head, _, arrived_body = received[0].partition(b"\r\n\r\n")
    request_line, *header_lines = head.decode().split("\r\n")
    arrived_method, arrived_target, _ = request_line.split(" ")
    headers = dict(header.split(": ", 1) for header in header_lines)
    assert arrived_body == body
    assert arrived_method == method
    assert headers["X-API-Key"] == f"{KEY_ID}:{signature(arrived_method, arrived_target, arrived_body)}"


def _answer_one(server: socket.socket, received: list[bytes]) -> None:
    server.settimeout(20)
    connection, _ = server.accept()
    with connection:
        connection.settimeout(20)
        octets = b""
        while b"\r\n\r\n" not in octets:
            octets += connection.recv(65_536)
        head, _, body = octets.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0]):
            body += connection.recv(65_536)
        received.append(head + b"\r\n\r\n" + body)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_http_signature_is_what_another_implementation_verifies() -> None:
    """RFC 9421, by the hand of others; the digest of the body, the expiry and a covered header are theirs to check too."""
    headers = ("-H", "X-Tenant: 7", "--cover", "x-tenant", "--cover", "@authority", "--expires-in", "60")
    now = str(int(time.time()))
    arguments = ("--key-id", KEY_ID, "--timestamp", now, "--nonce", NONCE, "--scheme", "http-signature", *headers)
    result = run("POST", "http://api.example/v1/clients?page=2", *arguments, "-d", '{"a":1}', "--digest", "sha-512")
    assert result.exit_code == 0
    printed = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert list(printed) == ["Content-Digest", "Signature-Input", "Signature"]
    message = requests.Request(
        "POST", "http://api.example/v1/clients?page=2", headers=printed | {"X-Tenant": "7"}, data='{"a":1}'
    ).prepare()

    class Keys(HTTPSignatureKeyResolver):
        def resolve_public_key(self, key_id: str) -> bytes:
            assert key_id == KEY_ID
            return SECRET.encode()

    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=Keys())
    (verified,) = verifier.verify(message)
    assert verified.parameters["expires"] == int(now) + 60
    assert verified.parameters["nonce"] == NONCE
    assert list(verified.covered_components)[:-1] == [
        *('"@method"', '"@target-uri"', '"x-tenant"', '"@authority"', '"content-digest"')
    ]


def test_explain_prints_what_is_signed() -> None:
    """Two texts can be compared; two signatures tell nothing but that they differ."""
    text = "\n".join(("POST", "/v1?a=1", "1700000000", NONCE, hashlib.sha256(b"x").hexdigest()))
    explained = run("POST", "http://a/v1?a=1", *FIXED, "-d", "x", "--explain").stdout
    assert explained.endswith(f"\n\n{text}\n")
    assert hashlib.sha256(text.encode()).hexdigest() in explained
    assert f"these {len(text)} bytes" in explained
    base = (
        '"@method": GET\n"@target-uri": http://a/v1\n"@signature-params": ("@method" "@target-uri");created=1700000000'
    )
    assert base in run("GET", "http://a/v1", *FIXED, "--scheme", "http-signature", "--explain").stdout
    assert (
        "the body alone: 1 bytes"
        in run("POST", "http://a/", *FIXED, "-d", "x", "--scheme", "hmac-body", "--explain").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (("--cover", "@authority"), "for --scheme http-signature"),
        (("--scheme", "http-signature", "--cover", "x-tenant"), "does not have"),
        (("--scheme", "http-signature", "--cover", "@status"), "requests don't have"),
        (("--scheme", "http-signature", "--cover", "X-Tenant"), "in lower case"),
        (("--scheme", "http-signature", "-H", "X-Tenant"), "is not 'Name: value'"),
        (("--scheme", "http-signature", "--nonce", "short"), "nonce"),
    ],
)
def test_what_no_gateway_would_take_is_not_signed(arguments: tuple[str, ...], mend: str) -> None:
    """Better here, with the reason, than a 401 that gives none."""
    result = run("GET", "http://a/", *FIXED, *arguments)
    assert result.exit_code == 2
    assert mend in result.stderr
