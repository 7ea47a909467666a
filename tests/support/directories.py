"""Temporary directories for what other accounts must enter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def directory_for_all() -> Iterator[Path]:
    """Not below pytest's own, which are closed to other accounts: the Postgres that root starts runs as another."""
    with tempfile.TemporaryDirectory(prefix="ostiary-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)
