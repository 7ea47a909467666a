"""The salt of the day, under which addresses are hashed.

It is a file in the spool's directory, for the workers of a node to share: never in Postgres, where the hashes are, and gone
once the day is over, so that nobody can find out afterwards whose hash it was. Another node has another salt: the same client
is two hashes there. That is the price of asking no store on the way of a call."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

_PREFIX = "ip-salt."
_BYTES = 32


def daily_salt(directory: Path, day: str) -> bytes:
    """The salt of `day` (`YYYYMMDD`, UTC), made by whoever asks first. Removes those that are older than the day before:
    a worker whose clock is late may still hash with that. Raises OSError, and ValueError for a file that holds no salt."""
    path = directory / f"{_PREFIX}{day}"
    try:
        salt = path.read_bytes()
    except FileNotFoundError:
        new = directory / f"{_PREFIX}new.{secrets.token_hex(8)}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
            try:
                os.link(new, path)  # fails if another was quicker: then theirs is the salt
            except FileExistsError:
                pass
        finally:
            new.unlink()
        salt = path.read_bytes()
        _forget(directory, day)
    if len(salt) != _BYTES:
        raise ValueError(f"{path.name} has {len(salt)} bytes instead of {_BYTES}; remove it")
    return salt


def _forget(directory: Path, day: str) -> None:
    yesterday = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) - timedelta(days=1)
    oldest = f"{_PREFIX}{yesterday:%Y%m%d}"
    for path in directory.glob(f"{_PREFIX}[0-9]*"):
        if path.name < oldest:
            path.unlink(missing_ok=True)
