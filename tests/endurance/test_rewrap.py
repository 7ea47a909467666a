"""One key-encryption key follows another while signed calls are made: nobody notices."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from ostiary.core.signing import sign_request
from tests.endurance.conftest import MakeSite
from tests.endurance.site import Site
from tests.support.gateway_process import DEADLINE_SECONDS, REPOSITORY, eventually
from tests.support.vault_server import VaultServer

# Whoever has just started looks 60 keys up and has Vault open them, within the deadlines of calls.
pytestmark = pytest.mark.alone

KEYS = 60
TARGET = "/local/signed"


class SignedCalls:
    """Threads that sign one call after the other, with each key in turn, on a connection of their own."""

    def __init__(self, port: int, keys: list[dict[str, Any]], threads: int = 3) -> None:
        self.statuses: Counter[int | str] = Counter()  # of an error with its code
        self._port = port
        self._keys = keys
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> SignedCalls:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    @property
    def made(self) -> int:
        return sum(self.statuses.values())

    def wait_for(self, more: int) -> None:
        until = self.made + more
        eventually(lambda: self.made >= until, f"{more} more calls")

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE_SECONDS)
        turn = number
        while not self._over.is_set():
            key = self._keys[turn % len(self._keys)]
            turn += 1
            headers = sign_request(key_id=key["key_id"], secret=key["secret"].encode(), method="GET", target=TARGET)
            try:
                connection.request("GET", TARGET, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
                self.statuses[answer.status if answer.status == 200 else f"{answer.status} {body[:300]!r}"] += 1
            except (OSError, http.client.HTTPException) as error:
                self.statuses[type(error).__name__] += 1
                connection.close()
        connection.close()


def keks(site: Site, current: str, **keys: str) -> None:
    several = ", ".join(f"{name}: {written}" for name, written in keys.items())
    site.text = "\n".join(
        f"  key_encryption_keys: {{current: {current}, keys: {{{several}}}}}" if "key_encryption_key" in line else line
        for line in site.text.splitlines()
    )
    site.write(site.text + "\n")


def rewrap(site: Site, *options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "ostiary", "keys", "rewrap", "-c", str(site.path), "--json", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_rewrapping_costs_no_signed_call_and_the_old_kek_may_go(make_site: MakeSite, vault: VaultServer) -> None:
    """Else the KEK would be changed at night, or never. From a file to Vault: the way that most go."""
    site = make_site(workers=2)
    (site.directory / "vault-token").write_text(vault.narrow_token())
    old = "{secret: file:key_encryption_key}"
    new = f'{{vault: {{address: "{vault.address}", key: ostiary, token: file:vault-token, timeout: 5s}}}}'
    keks(site, "old", old=old, new=new)
    with site.gateway() as gateway:
        with site.control_plane() as control_plane:
            keys = control_plane.make_keys(KEYS)
        with SignedCalls(gateway.port, keys) as calls:
            calls.wait_for(2 * KEYS)
            keks(site, "new", old=old, new=new)
            gateway.wait_for_log("reloaded")  # that another is current is nothing to a gateway
            with site.control_plane() as control_plane:
                keys += control_plane.make_keys(1)
            assert rewrap(site, "--check")[1]["left"] == KEYS
            status, dry = rewrap(site, "--dry-run")
            assert (status, dry["rewrapped"], dry["left"]) == (0, KEYS, 0)
            runs: list[tuple[int, dict[str, Any]]] = []
            others = [threading.Thread(target=lambda: runs.append(rewrap(site))) for _ in range(2)]
            for other in others:
                other.start()
            for other in others:
                other.join(DEADLINE_SECONDS)
            calls.wait_for(4 * KEYS)
        assert set(calls.statuses) == {200}, calls.statuses
        assert [status for status, _ in runs] == [0, 0]
        assert sum(document["rewrapped"] for _, document in runs) == KEYS
    status, checked = rewrap(site, "--check")
    assert (status, checked["complete"]) == (0, True)
    assert [(kek["name"], kek["data_keys"]) for kek in checked["key_encryption_keys"]] == [("new", KEYS + 1)]

    # Without the old one at all.
    keks(site, "new", new=new)
    with site.gateway() as gateway, SignedCalls(gateway.port, keys) as calls:
        calls.wait_for(2 * KEYS)
    assert set(calls.statuses) == {200}, calls.statuses
