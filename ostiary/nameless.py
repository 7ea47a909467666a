"""Memory that is handed on as a descriptor."""

from __future__ import annotations

import os
import tempfile


def nameless_memory(name: str) -> int:
    """A descriptor of an empty file without a path, so that nothing is left behind however the gateway ends. It is closed by
    `exec` unless that is changed. `name` shows in /proc alone."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"ostiary-{name}", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
