"""What each process must not import: start-up is CPU that every worker and every command pays again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.gateway_process import REPOSITORY

SHOW = """
import sys, importlib
importlib.import_module(sys.argv[1])
print(*sorted(name for name in sys.argv[2:] if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("ostiary.cli.main", ["asyncio", "aiohttp", "asyncpg", "cryptography", "yaml", "ostiary.core.config"]),
        ("ostiary.cli.db", ["aiohttp", "asyncpg", "pydantic", "ostiary.control_plane.app"]),
        ("ostiary.control_plane.db", ["aiohttp", "cryptography", "pydantic", "yaml", "ostiary.control_plane.app"]),
        ("ostiary.demo.run", ["cryptography", "pydantic", "redis", "ostiary.control_plane.app", "ostiary.gateway"]),
        ("ostiary.gateway.worker", ["aiohttp", "prometheus_client", "pydantic", "redis", "ostiary.control_plane"]),
        ("ostiary.gateway.shipping", ["aiohttp", "cryptography", "prometheus_client", "redis"]),
        ("ostiary.cli.gateway", ["asyncpg", "cryptography", "redis", "ostiary.gateway.worker"]),
    ],
)
def test_a_process_imports_nothing_that_it_does_not_use(module: str, unneeded: list[str]) -> None:
    """A worker that is replaced would be away for longer, and the demo up later: aiohttp alone is 0.2 s of CPU."""
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, module, *unneeded], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == []
