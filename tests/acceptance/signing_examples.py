"""The examples of docs/signing, as their readers run them: against a gateway, with and without a body, with what has to be
escaped, and with a wrong secret."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "signing"

# What runs each, after the method, the URL and the body are added. Some are compiled first, into the directory given.
RUNTIMES: dict[str, tuple[str, ...]] = {
    "sign.py": ("python3",),
    "sign.mjs": ("node",),
    "sign.php": ("php",),
    "sign.sh": ("sh",),
    "Sign.cs": ("mono",),
    "Sign.java": ("java",),
    "sign.go": ("go",),
}
BODY = '{"name": "Zoë & Söhne", "amount": 1000}\n'
TARGETS = ("/v1/clients", "/v1/clients/Zo%C3%AB?limit=10&name=a%20b&sort=-id&q=a%2Bb")


def command_of(example: str, directory: Path) -> list[str]:
    """How an example is run; compiled once, where its language is."""
    source = DOCS / example
    (runtime,) = RUNTIMES[example]
    if example == "Sign.cs":
        built = directory / "sign.exe"
        subprocess.run(
            ["mcs", "-r:System.Net.Http.dll", f"-out:{built}", str(source)],
            check=True,
            timeout=120,
        )
        return [runtime, str(built)]
    if example == "sign.go":
        built = directory / "sign-go"
        environment = os.environ | {"GOCACHE": str(directory / "go"), "GO111MODULE": "off"}
        subprocess.run(["go", "build", "-o", str(built), str(source)], check=True, timeout=300, env=environment)
        return [str(built)]
    return [runtime, str(source)]


def call(command: list[str], *arguments: str, key_id: str, secret: str) -> tuple[int, str]:
    """Exit status, and what was printed."""
    environment = os.environ | {"OSTIARY_KEY_ID": key_id, "OSTIARY_SECRET": secret}
    result = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return result.returncode, result.stdout + result.stderr
