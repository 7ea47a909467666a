"""Which of the machine's processors a process uses, for measurements in which one side must not take another's time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def split() -> tuple[set[int], set[int]]:
    """The first processor that this process may use, and the others; the same twice where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}


@contextmanager
def children_on(processors: set[int]) -> Iterator[None]:
    """Processes that are started within begin there, and stay; this one is back where it was afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
