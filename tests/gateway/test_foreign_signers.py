"""Clients that others wrote sign requests, and the gateway takes them; what is changed on the way it does not."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable

import pytest
import requests
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms
from requests_http_signature import HTTPSignatureAuth

from ostiary.core.model import Authentication, Scheme
from ostiary.demo.stores import EmbeddedValkey
from tests.support.gateway import KEY_ID, SECRET, RunningGateway, configuration, key, route, running_gateway, upstream
from tests.support.origin import Origin

BODY = b'{"name": "Zo\xc3\xab"}'


class Keys(HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id: str) -> bytes:
        return SECRET

    def resolve_public_key(self, key_id: str) -> bytes:
        return SECRET


@pytest.fixture
async def gateway(origin: Origin, valkey_server: EmbeddedValkey) -> AsyncIterator[RunningGateway]:
    only = Authentication(schemes=frozenset({Scheme.HTTP_SIGNATURE}), components=("@authority",))
    settings = configuration(
        [upstream(origin.port)], [route(authentication=only)], keys=[key()], redis=valkey_server.url()
    )
    async with running_gateway(settings) as gateway:
        yield gateway


def send(prepared: requests.PreparedRequest) -> tuple[int, str]:
    with requests.Session() as session:
        answer = session.send(prepared, timeout=10)
        return answer.status_code, answer.json()["code"] if answer.status_code >= 400 else ""


def by_requests(port: int, method: str, body: bytes | None) -> requests.PreparedRequest:
    """With requests_http_signature, as its documentation shows it."""
    auth = HTTPSignatureAuth(
        signature_algorithm=algorithms.HMAC_SHA256,
        key=SECRET,
        key_id=KEY_ID,
        use_nonce=True,
        expires_in=datetime.timedelta(seconds=30),
    )
    url = f"http://127.0.0.1:{port}/v1/clients?name=Zo%C3%AB&limit=10"
    return requests.Request(method, url, auth=auth, data=body).prepare()


def by_messages(port: int, method: str, body: bytes | None) -> requests.PreparedRequest:
    """With http_message_signatures, over other components and without `alg`."""
    url = f"http://127.0.0.1:{port}/v1/clients?name=Zo%C3%AB&limit=10"
    prepared = requests.Request(method, url, data=body, headers={"X-Tenant": "7"}).prepare()
    covered = ["@method", "@authority", "@path", "@query", "x-tenant"]
    if body is not None:
        digest = base64.b64encode(hashlib.sha512(body).digest()).decode()
        prepared.headers["Content-Digest"] = f"sha-512=:{digest}:"
        covered.append("content-digest")
    signer = HTTPMessageSigner(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=Keys())
    signer.sign(
        prepared,
        key_id=KEY_ID,
        nonce=base64.b64encode(secrets.token_bytes(24)).decode(),
        include_alg=False,
        covered_component_ids=covered,
        body=body,
        use_existing_digest=body is not None,
    )
    return prepared


SIGNERS: dict[str, Callable[[int, str, bytes | None], requests.PreparedRequest]] = {
    "requests-http-signature": by_requests,
    "http-message-signatures": by_messages,
}


@pytest.mark.parametrize("name", SIGNERS)
@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", BODY), ("PUT", b""), ("DELETE", None)])
async def test_clients_that_others_wrote_get_in(
    name: str, method: str, body: bytes | None, gateway: RunningGateway, origin: Origin
) -> None:
    """A standard is worth what its other implementations say."""
    prepared = SIGNERS[name](gateway.port, method, body)
    assert await asyncio.to_thread(send, prepared) == (200, "")
    assert origin.seen[0].body == (body or b"")
    assert await asyncio.to_thread(send, prepared) == (401, "nonce_replayed")


def _changed(header: str, old: str, new: str) -> Callable[[requests.PreparedRequest], None]:
    def change(prepared: requests.PreparedRequest) -> None:
        assert old in prepared.headers[header]
        prepared.headers[header] = prepared.headers[header].replace(old, new)

    return change


def _set(name: str, value: object) -> Callable[[requests.PreparedRequest], None]:
    def change(prepared: requests.PreparedRequest) -> None:
        assert getattr(prepared, name) != value
        setattr(prepared, name, value)

    return change


def _url(old: str, new: str) -> Callable[[requests.PreparedRequest], None]:
    def change(prepared: requests.PreparedRequest) -> None:
        assert prepared.url is not None
        assert old in prepared.url
        prepared.url = prepared.url.replace(old, new)

    return change


def _host(prepared: requests.PreparedRequest) -> None:
    prepared.headers["Host"] = "other.test"


TAMPERED = {
    "method": _set("method", "PUT"),
    "path": _url("/clients", "/client5"),
    "query": _url("limit=10", "limit=11"),
    "order of the query": _url("name=Zo%C3%AB&limit=10", "limit=10&name=Zo%C3%AB"),
    "NFC and NFD": _url("%C3%AB", "e%CC%88"),
    "host": _host,
    "body": _set("body", BODY.replace(b"Zo", b"Za")),
    "digest": _changed("Content-Digest", "=:", "=:A"),
    "created": _changed("Signature-Input", "created=1", "created=2"),
    "key": _changed("Signature-Input", KEY_ID, "ak_test_clienT"),
    "signature": _changed("Signature", "=:", "=:A"),
}


@pytest.mark.parametrize("name", SIGNERS)
@pytest.mark.parametrize("part", TAMPERED)
async def test_what_is_changed_on_the_way_does_not(
    name: str, part: str, gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 55, 64: by the same clients, with one thing changed after they have signed."""
    prepared = SIGNERS[name](gateway.port, "POST", BODY)
    TAMPERED[part](prepared)
    status, code = await asyncio.to_thread(send, prepared)
    assert (status, code) in ((401, "credentials_invalid"), (401, "timestamp_out_of_range"))
    assert origin.seen == []
