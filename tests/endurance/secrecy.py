"""Where a secret could show, read as bytes, and the search for it in every form that it could have there."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import redis

# Messages cut what they quote. Too long to be found by chance, or in what made secrets have in common (`ost_sk_live_`).
PART = 16


def leaks(secrets: Mapping[str, str], places: Mapping[str, bytes]) -> list[str]:
    """`secret in place`, for each of which PART characters in a row are found: as they are, in hexadecimal, in base64
    (whatever stands before them), or escaped for a URL. Secrets are told by their names."""
    return [
        f"{name} in {place}"
        for name, secret in secrets.items()
        for place, content in places.items()
        if any(
            form[at : at + PART] in content for form in _forms(secret.encode()) for at in range(len(form) - PART + 1)
        )
    ]


def _forms(secret: bytes) -> set[bytes]:
    forms = {secret, secret.hex().encode(), secret.hex().upper().encode(), quote(secret).encode()}
    try:
        forms.add(bytes.fromhex(secret.decode()))  # a key that is written in hexadecimal, and its own base64
        forms.add(base64.b64encode(bytes.fromhex(secret.decode())))
    except ValueError:
        pass
    for shift in range(3):
        # Whole groups of three alone: what stands before and behind changes the others.
        part = secret[(3 - shift) % 3 :]
        forms.add(base64.b64encode(part[: len(part) // 3 * 3]))
    return forms


def postgres_text(url: str) -> bytes:
    """Every row of every table as text, and what the server shows of sessions and settings."""

    async def read() -> list[str]:
        connection = await asyncpg.connect(url)
        try:
            tables = await connection.fetch(
                "SELECT oid::regclass::text AS name FROM pg_class "
                "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
            names = [table["name"] for table in tables] + ["pg_stat_activity", "pg_settings"]
            return [str(row[0]) for name in names for row in await connection.fetch(f"SELECT t::text FROM {name} AS t")]  # noqa: S608
        finally:
            await connection.close()

    return "\n".join(asyncio.run(read())).encode()


def redis_text(url: str, password: str) -> bytes:
    """Every key, and its value as its type is read."""
    with redis.Redis.from_url(url, password=password) as client:
        return b"\n".join(part for key in client.scan_iter() for part in (key, _value(client, key)))


def _value(client: Any, key: bytes) -> bytes:
    parts: Iterable[bytes]
    match kind := client.type(key):
        case b"string":
            parts = [client.get(key) or b""]
        case b"hash":
            parts = [part for pair in client.hgetall(key).items() for part in pair]
        case b"zset":
            parts = client.zrange(key, 0, -1)
        case b"list":
            parts = client.lrange(key, 0, -1)
        case b"set":
            parts = client.smembers(key)
        case b"none":  # it has expired since
            parts = []
        case _:
            raise AssertionError(f"a value of type {kind!r} is not read here")
    return b"\n".join(parts)


def command_lines() -> bytes:
    """Of every process that this account may look at."""
    return b"\n".join(_readable(Path("/proc").glob("[0-9]*/cmdline")))


def files(directory: Path) -> bytes:
    """All of them, without the zeros of what is not written yet."""
    found = _readable(path for path in directory.rglob("*") if path.is_file())
    return b"\n".join(content.rstrip(b"\0") for content in found)


def _readable(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            yield path.read_bytes()
        except OSError:  # it has ended, or was shipped, since
            continue
