"""What each scheme takes, as a whole request, without a body and with one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contestant import Contestant, Credential
from benchmarks.gateway import start_ostiary
from benchmarks.requests import (
    KEY_ID,
    bearer_request,
    body_signed_request,
    message_signed_request,
    plain_request,
    write_repeated,
)
from benchmarks.rig import Rig
from benchmarks.sweeps.certificates import write_certificate
from benchmarks.sweeps.loads import Writing, by_tls_client, by_wrk, repeated, signed
from benchmarks.sweeps.sweep import AxisKind, Case, Sweep
from benchmarks.tokens import BenchIssuer

CLIENT = "client"
BODIES: dict[str, bytes | None] = {"no body": None, "body of 1 KiB": b"x" * 1024}
# A signed request with its body is 1.7 kB, so fewer are made ahead than for other loads: on the fastest machine so far
# 38 000 a second are used.
_SIGNED_PER_SECOND = 50_000
_MTLS_ROUTE = """\
  - name: mtls
    match: {path: "/v1/mtls/**", methods: [GET, POST]}
    upstream: {live: api, test: api}
    auth: {schemes: [mtls]}
certificates:
"""


def _sides(rig: Rig) -> Sequence[Contestant]:
    server, client = write_certificate(rig.directory), write_certificate(rig.directory, stem=CLIENT)
    (rig.directory / "token").write_text(BenchIssuer(rig.directory).token())
    listener = f"cert: {server.cert}, key: {server.key}, client_ca: {client.cert}, client_certificate: optional"
    fingerprint = client.sha256()
    return (
        Contestant(
            "ostiary-schemes",
            "Ostiary",
            Credential.UNCHANGING,
            (),
            start_ostiary("ostiary-schemes.yaml", more=""),
        ),
        Contestant(
            "ostiary-schemes-tls",
            "Ostiary",
            Credential.UNCHANGING,
            (),
            start_ostiary(
                "ostiary-schemes.yaml",
                tls=f", tls: {{{listener}}}",
                more=f'{_MTLS_ROUTE}  - {{sha256: "{fingerprint}", key: {KEY_ID}}}\n',
            ),
        ),
    )


def _with_token(target: str, body: bytes | None) -> Writing:
    """Of the issuer of this measurement, whose token stands beside the requests."""
    return lambda path, seconds: write_repeated(
        path, bearer_request(target, (path.parent / "token").read_text(), body=body)
    )


def writings(body: bytes | None) -> dict[str, Writing]:
    """By scheme."""
    return {
        "anonymous": repeated(plain_request("/v1/anonymous/1", body=body)),
        "bearer": repeated(bearer_request("/v1/bearer/1", body=body)),
        "jwt": _with_token("/v1/jwt/1", body),
        "hmac-body": repeated(body_signed_request("/v1/hmac-body/1", body=body)),
        "hmac": signed("/v1/hmac/1", body=body, per_second=_SIGNED_PER_SECOND),
        "http-signature": signed(
            "/v1/http-signature/1", sign=message_signed_request, body=body, per_second=_SIGNED_PER_SECOND
        ),
    }


def _cases() -> Iterator[Case]:
    for curve, body in BODIES.items():
        for scheme, writing in writings(body).items():
            yield Case(curve, scheme, "ostiary-schemes", by_wrk(writing))
        yield Case(curve, "bearer, TLS", "ostiary-schemes-tls", by_tls_client(writings(body)["bearer"], CLIENT))
        mtls = repeated(plain_request("/v1/mtls/1", body=body))
        yield Case(curve, "mtls, TLS", "ostiary-schemes-tls", by_tls_client(mtls, CLIENT))


SCHEMES = Sweep(
    "schemes",
    "schemes",
    "A route for each scheme, without limits and usage. `hmac` and `http-signature` take a nonce in Redis for each request; "
    "a token (`jwt`, RS256, 900 bytes) is verified once and then remembered. The last two, over TLS, are of a load generator "
    "in Python, which can show a client certificate and sets the pace: compare them with each other.",
    "scheme",
    AxisKind.NAMES,
    _sides,
    tuple(_cases()),
    with_stores=True,
)
