"""The files of a demo: one configuration for both planes, and its secrets in files of their own.

The same file format an operator writes; the comments in it are for the reader of a demo. Secrets are referred to as
`file:/path`, so that the configuration itself can be shown to anyone."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = """\
# Made by `ostiary demo`. Try: ostiary config check {quoted_path}
version: 1

gateway:
  listen: {{host: 127.0.0.1, port: {gateway_port}, workers: {workers}}}
  admin: {{host: 127.0.0.1, port: {admin_port}}}   # /metrics /healthz /readyz /status
  drain: 5s

control_plane:
  listen: {{host: 127.0.0.1, port: {control_port}}}
  operator_token: {operator_token}

stores:
  redis: {redis}
  postgres: {postgres}
  spool: {spool}
  key_encryption_key: {key_encryption_key}

plans:
  standard:                                          # what the printed live key has
    rate: {{requests: 100, per: minute, burst: 600}}
    limits: [{{requests: 10000, per: hour}}]
    quotas: [{{requests: 1000000, per: day}}]
    concurrency: 50
  small:                                             # to see a 429 without hammering
    limits: [{{requests: {small_plan_requests}, per: minute}}]

upstreams:
  planner:
    targets: [{{url: "{upstream}"}}]
  planner-sandbox:
    targets: [{{url: "{sandbox}"}}]

routes:
  - name: clients
    match: {{path: "/v1/clients/**", methods: [GET, POST]}}
    upstream: {{live: planner, test: planner-sandbox}}
    auth: {{schemes: [hmac, bearer], scopes: {{GET: ["clients:read"], POST: ["clients:write"]}}}}
  - name: weddings
    match: {{path: "/v1/weddings/**", methods: [GET, POST]}}
    upstream: {{live: planner, test: planner-sandbox}}
    auth: {{schemes: [hmac, bearer], scopes: {{GET: ["weddings:read"], POST: ["weddings:write"]}}}}
    limits: [{{requests: 50, per: second, by: ip}}]
"""

SCOPES = ("clients:read", "clients:write", "weddings:read", "weddings:write")
SMALL_PLAN_REQUESTS = 3
# Two are enough to see that limits hold across processes; the demo shares the machine with everything else on it.
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Ports:
    gateway: int
    control_plane: int
    admin: int


@dataclass(frozen=True, slots=True)
class Addresses:
    """URLs of what the gateway and the control plane talk to. They carry no passwords: see `EmbeddedPostgres`."""

    redis: str
    postgres: str
    upstream: str
    sandbox: str


def operator_token_file(directory: Path) -> Path:
    return directory / "operator-token"


def write_configuration(directory: Path, *, ports: Ports, addresses: Addresses) -> Path:
    """Writes the configuration into `directory`, and its secrets if they are not there yet: keys that were made with them
    stay valid. Every file can be read by this account alone."""
    token, key = operator_token_file(directory), directory / "key-encryption-key"
    if not token.exists():
        _write_private(token, secrets.token_urlsafe(32))
    if not key.exists():
        _write_private(key, base64.b64encode(secrets.token_bytes(32)).decode())
    path = directory / "ostiary.yaml"
    text = CONFIGURATION.format(
        quoted_path=path,
        gateway_port=ports.gateway,
        admin_port=ports.admin,
        control_port=ports.control_plane,
        workers=WORKERS,
        operator_token=_quoted(f"file:{token}"),
        key_encryption_key=_quoted(f"file:{key}"),
        redis=_quoted(addresses.redis),
        postgres=_quoted(addresses.postgres),
        spool=_quoted(str(directory / "spool")),
        upstream=addresses.upstream,
        sandbox=addresses.sandbox,
        small_plan_requests=SMALL_PLAN_REQUESTS,
    )
    _write_private(path, text)
    return path


def _quoted(text: str) -> str:
    """A YAML string, whatever is in it (JSON strings are YAML), with `$` kept from being read as a variable."""
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and never for a moment readable by others."""
    draft = path.with_name(path.name + ".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + ("" if text.endswith("\n") else "\n"))
    draft.rename(path)
