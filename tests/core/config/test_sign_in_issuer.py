"""`control_plane.issuer` and `public_url`: what is read, refused and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ostiary.core.config import ConfigurationError, load_text
from ostiary.core.config.difference import compare
from ostiary.core.issuers import Algorithm, KeysAt
from ostiary.core.model import Configuration
from ostiary.gateway.channel import pack_configuration, unpack_configuration
from tests.support.issuers import document, rsa_key

TEXT = """\
version: 1
routes: []
control_plane:
  public_url: https://console.example.com
  issuer:
    issuer: https://login.example.com/
    audience: https://console.example.com
    jwks: https://login.example.com/jwks.json
    email: [contact, address]
    token_types: [at+jwt]
"""


def load(text: str, directory: Path = Path()) -> Configuration:
    return load_text(text, name=str(directory / "gateway.yaml"), environment={})


def test_an_issuer_of_users_is_read_strictly() -> None:
    """A token for another service, or without an end, would let its bearer manage the platform."""
    configuration = load(TEXT)
    read = configuration.control_plane.issuer
    assert read is not None
    assert (read.email, read.verified_email_required) == (("contact", "address"), True)
    issuer = read.issuer
    assert (issuer.url, issuer.audiences) == ("https://login.example.com/", ("https://console.example.com",))
    assert issuer.keys == KeysAt("https://login.example.com/jwks.json")
    assert issuer.algorithms == {Algorithm.RS256, Algorithm.PS256, Algorithm.ES256, Algorithm.EDDSA}
    assert (issuer.expiry_required, issuer.token_types) == (True, frozenset({"at+jwt"}))
    assert unpack_configuration(pack_configuration(configuration)) == configuration


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("    audience: https://console.example.com\n", "", "control_plane.issuer"),
        ("token_types: [at+jwt]", "require_expiry: false", "there is no field 'require_expiry'"),
        ("token_types: [at+jwt]", "algorithms: [HS256]", "control_plane.issuer.algorithms[0]"),
        ("token_types: [at+jwt]", "environment: live", "there is no field 'environment'"),
        ("jwks: https:", "jwks: http:", "control_plane.issuer.jwks"),
        ("public_url: https://console.example.com", "public_url: https://console.example.com/portal", "public_url"),
        ("public_url: https://console.example.com", "public_url: console.example.com", "public_url"),
    ],
)
def test_what_would_let_others_in_is_refused(old: str, new: str, place: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigurationError) as refused:
        load(TEXT.replace(old, new))
    assert place in str(refused.value)


def test_a_document_whose_keys_fit_no_algorithm_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_bytes(document(rsa_key()))
    text = TEXT.replace("jwks: https://login.example.com/jwks.json", "jwks: {file: keys.json}")
    assert load(text, tmp_path).control_plane.issuer is not None
    with pytest.raises(ConfigurationError, match="no key for any of the algorithms"):
        load(text.replace("token_types: [at+jwt]", "algorithms: [ES256]"), tmp_path)


def test_a_change_of_either_is_told() -> None:
    """`config diff` would call a change of who gets in none."""
    before = load(TEXT)
    after = replace(before, control_plane=replace(before.control_plane, public_url=None, issuer=None))
    assert {change.field for change in compare(before, after)} == {"control_plane.public_url", "control_plane.issuer"}
