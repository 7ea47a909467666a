"""Messages that are set aside: a file for each, for a person to look at."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NAME_CHARACTERS_MAX = 200


def set_aside(directory: Path, subject: str, sequence: int, payload: bytes) -> str:
    """Keeps a message: its payload, under its number in the stream and its subject. Once, however often it is delivered. On
    the disk when this returns. The name of the file. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{sequence:012d}.{re.sub(r'[^A-Za-z0-9._-]', '_', subject)[:_NAME_CHARACTERS_MAX]}.message"
    new = directory / f"{name}.{os.getpid()}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(fd)
    os.rename(new, directory / name)
    return name
