"""`tls` of an upstream: files that are no good refuse the configuration, at their line; a renewal is a change."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from ostiary.core.config import ConfigurationError, Problem, load_text
from ostiary.core.config.difference import compare
from ostiary.core.config.explanation import explain
from ostiary.core.model import Configuration
from ostiary.core.upstream import Target
from tests.support.certificates import Issued, issue


@pytest.fixture
def signed(tmp_path: Path) -> Issued:
    return issue(tmp_path, "authority", authority=True).sign("gateway.internal", stem="mine")


def load(directory: Path, tls: str, url: str = "https://api.internal:8443") -> Configuration:
    text = f"""\
version: 1
upstreams:
  api:
    targets: [{{url: "{url}"}}]
    tls: {tls}
routes:
  - {{name: all, match: {{path: "/**"}}, upstream: api, auth: {{schemes: [anonymous]}}}}
"""
    return load_text(text, name=str(directory / "gateway.yaml"))


def refused(directory: Path, tls: str, url: str = "https://api.internal:8443") -> Problem:
    with pytest.raises(ConfigurationError) as error:
        load(directory, tls, url)
    (problem,) = error.value.problems
    assert problem.line == 5
    return problem


def test_every_file_is_read_with_the_configuration(tmp_path: Path, signed: Issued) -> None:
    """What is in force must not change with a file that somebody edits."""
    configuration = load(tmp_path, "{ca: authority.pem, server_name: API.internal, cert: mine.pem, key: mine.key}")
    (target,) = configuration.upstreams["api"].targets
    assert target.tls is not None
    assert target.tls.ca_pem == (tmp_path / "authority.pem").read_bytes()
    assert (target.tls.cert_pem, target.tls.key_pem) == (signed.cert.read_bytes(), signed.key.read_bytes())
    assert target.tls.server_name == "api.internal"
    assert "PRIVATE" not in repr(configuration)


@pytest.mark.parametrize(
    ("tls", "path", "message", "mend"),
    [
        ("{ca: nowhere.pem}", "ca", "the file 'nowhere.pem' does not exist", "it was looked for at"),
        ("{ca: junk}", "ca", "has no certificate in PEM form", "it begins with -----BEGIN CERTIFICATE-----"),
        ("{ca: mine.key}", "ca", "has no certificate in PEM form", "it begins with -----BEGIN CERTIFICATE-----"),
        ("{cert: mine.pem}", "cert", "means nothing without key", "add key, or remove it"),
        ("{key: mine.key}", "key", "means nothing without cert", "add cert, or remove it"),
        ("{cert: junk, key: mine.key}", "cert", "has no certificate in PEM form", "it begins with"),
        ("{cert: mine.pem, key: junk}", "key", "is no private key in PEM form", "it begins with"),
        ("{cert: mine.pem, key: sealed.key}", "key", "is encrypted, and nobody is there to type its", "openssl pkey"),
        ("{cert: authority.pem, key: mine.key}", "key", "is not the key of this certificate", "give the key that"),
        ("{cert: mine.pem, key: large}", "key", "the file 'large' is larger than 512 KiB", ""),
        ("{server_name: 'a b'}", "server_name", "must be a DNS name or an IP address, not 'a b'", ""),
    ],
)
def test_a_file_that_is_no_good_is_refused_at_its_line(
    tls: str, path: str, message: str, mend: str, tmp_path: Path, signed: Issued
) -> None:
    """Found at the first call, it would be found in production; and no part of a key may be in the message."""
    (tmp_path / "junk").write_text("-----BEGIN NOTHING-----")
    (tmp_path / "large").write_bytes(bytes((512 << 10) + 1))
    key = serialization.load_pem_private_key(signed.key.read_bytes(), None)
    (tmp_path / "sealed.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    problem = refused(tmp_path, tls)
    assert problem.path == f"upstreams.api.tls.{path}"
    assert problem.message.startswith(message)
    assert (problem.mend or "").startswith(mend)
    assert "PRIVATE" not in str(problem).replace("-----BEGIN PRIVATE KEY-----", "")


@pytest.mark.parametrize("url", ["http://api.internal", "unix:/run/app.sock"])
def test_tls_for_a_target_without_it_is_refused(url: str, tmp_path: Path, signed: Issued) -> None:
    """Its author believes that calls are encrypted."""
    problem = refused(tmp_path, "{ca: authority.pem}", url)
    assert problem.message == f"is for https targets alone, and {url} is none"


def test_a_unix_socket_is_a_target() -> None:
    assert Target("unix", "/run/app.sock", 0).label == "unix:/run/app.sock"
    text = (
        'version: 1\nupstreams: {a: {targets: [{url: "unix:/run/app.sock"}, {url: "http://[::1]:9000"}]}}\nroutes: []\n'
    )
    assert load_text(text, name="gateway.yaml").upstreams["a"].targets == (
        Target("unix", "/run/app.sock", 0),
        Target("http", "::1", 9000),
    )


def test_a_renewed_certificate_is_a_change_and_shows(tmp_path: Path, signed: Issued) -> None:
    """`config diff` before a reload tells whether the new file is there."""
    fields = "{ca: authority.pem, cert: mine.pem, key: mine.key}"
    before = load(tmp_path, fields)
    assert compare(before, load(tmp_path, fields)) == ()
    issue(tmp_path, "authority", authority=True).sign("gateway.internal", stem="mine")
    (change,) = compare(before, load(tmp_path, fields))
    assert (change.subject, change.field) == ("upstream api", "tls")
    assert change.before is not None
    assert str(tmp_path / "mine.pem") in change.before
    assert change.before != change.after


def test_explain_tells_how_targets_are_checked(tmp_path: Path, signed: Issued) -> None:
    facts = explain(load(tmp_path, "{ca: authority.pem, server_name: x.internal}"), "GET", "/a", {}).facts
    assert facts["TLS of api"].startswith(f"ca {tmp_path / 'authority.pem'} (")
    assert facts["TLS of api"].endswith(", server_name x.internal")
