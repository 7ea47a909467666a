"""Issuers, client certificates and the scopes of tokens in the file: what is read, refused, warned of, told and compared."""

# ruff: noqa: E501  the tables are read by their columns

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path

import pytest

from ostiary.core.config import ConfigurationError, load_file
from ostiary.core.config.difference import compare
from ostiary.core.config.explanation import explain
from ostiary.core.issuers import Algorithm, ByClaim, KeysAt, KeysInFile
from ostiary.core.model import CertificateName, CertificateUse, Configuration, Scheme
from ostiary.gateway.channel import pack_configuration, unpack_configuration
from ostiary.gateway.reload import certificate_files
from tests.core.config.loading import SECRET
from tests.support.certificates import issue
from tests.support.issuers import claims, document, ec_key, mint, rsa_key

KEY = ec_key()
FINGERPRINT = "ab:" * 31 + "CD"

TEXT = """\
version: 1
gateway: {listen: {tls: {cert: a.pem, key: a.key, client_ca: ca.pem, client_certificate: optional}}}
plans:
  gold: {limits: [{requests: 100, per: minute}]}
  free: {limits: [{requests: 1, per: minute}]}
upstreams:
  live: {targets: [{url: "http://127.0.0.1:9000"}]}
  sandbox: {targets: [{url: "http://127.0.0.1:9001"}]}
issuers:
  corp:
    issuer: https://login.example.com/
    audience: https://api.example.com
    jwks: https://login.example.com/jwks.json
    environment: live
    plan: {claim: [realm, tier], default: free}
  partner:
    issuer: https://partner.example/
    audience: [a, b]
    jwks: {file: keys.json}
    algorithms: [ES256]
    environment: {claim: env}
    plan: gold
    required_claims: {token_use: access}
routes:
  - name: clients
    match: {path: "/v1/clients/**", methods: [GET, POST]}
    upstream: {live: live, test: sandbox}
    auth: {schemes: [bearer, jwt, mtls], issuers: [corp, partner], scopes: {GET: {any: [clients:read, Orders.Read]}, POST: [clients:write]}}
certificates:
  - {sha256: "FINGERPRINT", key: ak_test_1}
  - {uri: "spiffe://example.com/billing", key: ak_test_1}
keys:
  - {id: ak_test_1, secret: "${SECRET}", plan: gold, scopes: ["clients:*"], environment: test}
""".replace("FINGERPRINT", FINGERPRINT)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    issue(tmp_path, "a.test", stem="a")
    issue(tmp_path, "authority", stem="ca", authority=True)
    (tmp_path / "keys.json").write_bytes(document(KEY))
    return tmp_path


def load(directory: Path, *changes: tuple[str, str]) -> Configuration:
    text = TEXT
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    path = directory / "gateway.yaml"
    path.write_text(text)
    return load_file(path, environment={"SECRET": SECRET})


def test_what_stands_in_the_file_is_what_the_gateway_goes_by(directory: Path) -> None:
    """A claim that was mapped to another thing than is written would let callers be somebody else."""
    loaded = load(directory)
    corp, partner = loaded.issuers["corp"], loaded.issuers["partner"]
    assert corp.keys == KeysAt("https://login.example.com/jwks.json")
    assert corp.algorithms == {Algorithm.RS256, Algorithm.PS256, Algorithm.ES256, Algorithm.EDDSA}
    assert (corp.environment, corp.plan, corp.audiences) == (
        "live",
        ByClaim(("realm", "tier"), "free"),
        ("https://api.example.com",),
    )
    assert (corp.name, corp.skew_seconds, corp.expiry_required) == ("corp", 30.0, True)
    assert corp.plans == {"gold", "free"}
    assert partner.keys == KeysInFile(str(directory / "keys.json"), document(KEY))
    assert (partner.environment, partner.plan, partner.required) == (
        ByClaim(("env",)),
        "gold",
        {("token_use",): "access"},
    )
    assert loaded.certificates == (
        CertificateUse(CertificateName.SHA256, "ab" * 31 + "cd", "ak_test_1"),
        CertificateUse(CertificateName.URI, "spiffe://example.com/billing", "ak_test_1"),
    )
    authentication = loaded.routes[0].authentication
    assert authentication.schemes == {Scheme.BEARER, Scheme.JWT, Scheme.MTLS}
    assert authentication.issuers == ("corp", "partner")
    assert authentication.lacking(frozenset({"Orders.Read"}), "HEAD") == ()
    assert authentication.lacking(frozenset(), "GET") == ("Orders.Read or clients:read",)
    assert authentication.lacking(frozenset({"clients:read"}), "POST") == ("clients:write",)
    assert loaded.warnings == ()
    assert unpack_configuration(pack_configuration(loaded)) == loaded
    assert str(directory / "keys.json") in certificate_files(loaded)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("https://login.example.com/jwks.json", "http://login.example.com/jwks.json", "issuers.corp.jwks: is plain http: whoever is on the way could give out keys of their own (write https://)"),
        ("https://login.example.com/jwks.json", "https://u:p@login.example.com/", "issuers.corp.jwks: a URL of keys has no user and no # (leave them out)"),
        ("https://login.example.com/jwks.json", "file:///etc/passwd", "issuers.corp.jwks: must be a URL such as `https://login.example.com/.well-known/jwks.json`, not 'file:///etc/passwd'"),
        ("https://login.example.com/jwks.json", "{}", "issuers.corp.jwks: must have url or file, and not both (write jwks: https://…)"),
        ("{file: keys.json}", "{file: keys.json, refresh: 1m}", "issuers.partner.jwks.refresh: means nothing for a file, which is read when it changes (remove it)"),
        ("{file: keys.json}", "{file: a.pem}", "issuers.partner.jwks.file: is no JWKS document: the document is not JSON"),
        ("{file: keys.json}", "{file: none.json}", "issuers.partner.jwks.file: the file 'none.json' does not exist"),
        ("{file: keys.json}", "{url: 'http://h/', insecure: false}", "issuers.partner.jwks.url: is plain http: whoever is on the way could give out keys of their own (write https://)"),
        ("algorithms: [ES256]", "algorithms: [HS256]", "issuers.partner.algorithms[0]: must be `RS256`"),
        ("algorithms: [ES256]", "algorithms: [none]", "issuers.partner.algorithms[0]: must be `RS256`"),
        ("algorithms: [ES256]", "algorithms: [RS256]", "issuers.partner.jwks: has no key for any of the algorithms (add the algorithm of its keys)"),
        ("    audience: https://api.example.com\n", "", "issuers.corp: the field 'audience' is missing (`aud`, which must name one of these."),
        ("    environment: live\n", "", "issuers.corp: the field 'environment' is missing"),
        ("environment: live\n", "environment: staging\n", "issuers.corp.environment: must be `live` or `test`, not 'staging'"),
        ("default: free", "default: fre", "issuers.corp.plan.default: there is no plan 'fre' (did you mean 'free'?)"),
        ("plan: gold\n    required", "plan: golden\n    required", "issuers.partner.plan: there is no plan 'golden' (did you mean 'gold'?)"),
        ("plan: gold\n    required", "app: mine\n    required", "issuers.partner.app: must be a UUID, as the control plane gives them, not 'mine'"),
        ("issuers: [corp, partner]", "issuers: [corp, partnr]", "routes[0].auth.issuers[1]: there is no issuer 'partnr' (did you mean 'partner'?)"),
        ("https://partner.example/", "https://login.example.com/", "routes[0]: takes tokens of 'corp' and 'partner', which are told apart by nothing: their `issuer` is the same (leave one of them, with all audiences)"),
        ("sha256: \"" + FINGERPRINT, "sha256: \"ab:cd", "certificates[0].sha256: must be a SHA-256 in hexadecimal digits, with colons or without (quote it), not 'ab:cd'"),
        ("key: ak_test_1}", "key: ak_tset_1}", "certificates[0]: there is no key 'ak_tset_1' (did you mean 'ak_test_1'?)"),
        ("{uri: ", "{dns: a.test, uri: ", "certificates[1]: must have one of sha256, spki_sha256, uri, dns, common_name, and not several (write an entry for each)"),
        ('{uri: "spiffe://example.com/billing"', '{sha256: "' + FINGERPRINT.lower() + '"', "certificates[1]: names a certificate by sha256 that an entry before it names (leave one of them)"),
        (", client_ca: ca.pem, client_certificate: optional", "", "routes[0]: takes the scheme 'mtls', and the gateway asks no client for a certificate"),
        ("client_certificate: optional", "client_crl: a.pem", "gateway.listen.tls.client_crl: has no revocation list in PEM form (it begins with -----BEGIN X509 CRL-----)"),
        (", client_ca: ca.pem, client_certificate: optional", ", client_crl: a.pem", "gateway.listen.tls.client_crl: means nothing without client_ca (add client_ca, or remove it)"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_mend(before: str, after: str, problem: str, directory: Path) -> None:
    """Row 111: who lets strangers in by a slip should read of it before they come."""
    with pytest.raises(ConfigurationError) as refused:
        load(directory, (before, after))
    told = [str(each).partition(": ")[2] for each in refused.value.problems]
    assert any(each.startswith(problem) for each in told), told


def test_a_secret_that_looks_like_a_token_is_refused_where_both_are_taken(directory: Path) -> None:
    """Its calls would be 401, and nobody would find out why."""
    path = directory / "gateway.yaml"
    path.write_text(TEXT)
    with pytest.raises(ConfigurationError, match="its secret has two dots, as a token has"):
        load_file(path, environment={"SECRET": "a" * 20 + ".b." + "c" * 20})
    previous = "environment: test, previous: {secret: '%s', ends_at: 2027-01-31T00:00:00Z}}" % (
        "a" * 20 + ".b." + "c" * 20
    )
    with pytest.raises(ConfigurationError, match="its secret has two dots, as a token has"):
        load(directory, ("environment: test}", previous))


def test_a_secret_that_looks_like_a_signature_is_warned_of(directory: Path) -> None:
    """It works in one header and not in the other, and the answer says neither which nor why."""
    path = directory / "gateway.yaml"
    path.write_text(TEXT)
    loaded = load_file(path, environment={"SECRET": "a" * 20 + ":" + "c" * 20})
    assert any("its secret has a colon, so in X-API-Key" in told for told in loaded.warnings)


def test_what_loads_and_may_not_be_meant_is_warned_of(directory: Path) -> None:
    """Each of these is a caller who can't call, or one who can for ever."""
    loaded = load(
        directory,
        ("[corp, partner]", "[corp]"),
        ("POST: [clients:write]", "POST: ['clients:*']"),
        ("    plan: {claim: [realm, tier], default: free}\n", "    require_expiry: false\n"),
    )
    told = " ".join(loaded.warnings)
    assert "no route takes tokens of this issuer" in told
    assert "asks for 'clients:*': a wildcard is for keys" in told
    assert "its callers have no plan" in told
    assert "a token of this issuer that never ends can't be taken back" in told


def test_a_revocation_list_is_read_and_must_be_of_an_authority(directory: Path) -> None:
    """Row 70: a list that nobody of ours has signed could revoke, or forgive, anybody."""
    authority = issue(directory, "authority", stem="ca", authority=True)
    stranger = issue(directory, "stranger", authority=True)
    leaf = authority.sign("leaf.test")
    change = ("client_certificate: optional", "client_crl: crl.pem")
    (directory / "crl.pem").write_bytes(authority.revocation_list(leaf))
    clients = load(directory, change).gateway.listen.tls[0].clients
    assert clients is not None
    assert clients.revoked == {leaf.serial}
    assert clients.revocation_until == pytest.approx(time.time() + 3600, abs=60)
    assert str(directory / "crl.pem") in certificate_files(load(directory, change))
    (directory / "crl.pem").write_bytes(stranger.revocation_list(leaf))
    with pytest.raises(ConfigurationError, match="none of the authorities of client_ca has signed"):
        load(directory, change)
    # Out of date: it holds on, and is told of.
    (directory / "crl.pem").write_bytes(authority.revocation_list(leaf, valid_for=datetime.timedelta(minutes=-1)))
    late = load(directory, change)
    held = late.gateway.listen.tls[0].clients
    assert held is not None
    assert held.revoked == clients.revoked
    assert any("was to be renewed on" in warning for warning in late.warnings)


def test_a_change_is_told_with_what_it_means(directory: Path) -> None:
    """A reload that shuts out a partner should say so before."""
    before = load(directory)
    (directory / "keys.json").write_bytes(document(ec_key("next")))
    after = load(
        directory,
        ("audience: [a, b]", "audience: [a]"),
        ("issuers: [corp, partner]", "issuers: [partner]"),
        ("any: [clients:read, Orders.Read]", "any: [clients:read]"),
        ('  - {uri: "spiffe://example.com/billing", key: ak_test_1}\n', ""),
        ("    plan: gold\n    required_claims: {token_use: access}\n", "    plan: gold\n"),
    )
    told = {(change.subject, change.field): str(change) for change in compare(before, after)}
    assert "tokens for b alone get 401 from now on" in told["issuer partner", "audience"]
    assert "OPEN: any token of the issuer" in told["issuer partner", "required_claims"]
    assert "keys.json (" in told["issuer partner", "jwks"]
    assert "tokens of corp get 401 from now on" in told["route clients", "auth.issuers"]
    assert "GET: one of Orders.Read, clients:read" in told["route clients", "auth.scopes"]
    assert "1 name of certificates leads to no key" in told["settings", "certificates"]
    assert compare(before, before) == ()


def test_explain_says_who_may_call_and_what_a_token_or_key_would_get(directory: Path) -> None:
    """Row 68: a caller who gets 401 or 403 wants to know which of their claims is to blame; the log of the gateway says it to
    the operator, and this says it before."""
    loaded = load(directory)

    def facts(method: str = "GET", **headers: str) -> dict[str, str]:
        return dict(explain(loaded, method, "/v1/clients/7", headers).facts)

    bare = facts()
    assert bare["authentication"] == "bearer, jwt, mtls"
    assert bare["tokens of"] == "corp (https://login.example.com/), partner (https://partner.example/)"
    assert bare["scopes"] == "one of Orders.Read, clients:read"
    assert bare["client certificates"].startswith("2 names stand for keys")
    assert bare["caller"] == "no credential given: that of the client's certificate, else 401 credentials_missing"
    assert facts("POST")["scopes"] == "clients:write"
    token = mint(rsa_key(), "RS256", said=claims(scope="Orders.Read", realm={"tier": "gold"}))
    assert facts(authorization=f"Bearer {token}")["caller"].startswith(
        "a token of corp for user-1, counted as jwt:live:corp:"
    )
    assert "plan gold: 100 in any minute" in facts(authorization=f"Bearer {token}")["caller"]
    assert facts("POST", authorization=f"bearer {token}")["caller"].endswith(
        "403 scope_missing, it lacks clients:write"
    )
    late = mint(rsa_key(), "RS256", said=claims(exp=int(time.time()) - 60))
    assert facts(authorization=f"Bearer {late}")["caller"] == "a token: 401 credentials_invalid, expired"
    assert (
        facts(authorization="Bearer a.b.c")["caller"] == "a token: 401 credentials_invalid, the header is not base64url"
    )
    # The key's `clients:*` covers what the route asks for.
    assert facts("POST", **{"x-api-key": SECRET})["caller"].startswith("ak_test_1 (test), plan gold")
    assert token.split(".")[2] not in json.dumps(facts(authorization=f"Bearer {token}"))
