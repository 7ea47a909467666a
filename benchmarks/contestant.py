"""What a contestant is, before and while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.processes import Started
from benchmarks.rig import Rig, Role


class Credential(StrEnum):
    """What each request of the load carries; see `requests.py`."""

    UNCHANGING = "unchanging"
    BODY = "body"
    NONCE = "nonce"
    BEARER = "bearer"


@dataclass(frozen=True, slots=True)
class Need:
    """Something a contestant can't run without, and the command that brings it."""

    what: str
    found: Callable[[], bool]
    mend: str


@dataclass(frozen=True, slots=True)
class RunningSide:
    """`pids` gives the side's own processes by role, as of now. It raises DidNotStart when one that is measured has ended."""

    port: int
    started: Started
    pids: Callable[[], dict[Role, frozenset[int]]]
    admin_port: int | None = None  # Ostiary's alone


@dataclass(frozen=True, slots=True)
class Contestant:
    """`targets`, where there are any, are what its requests ask for, spread evenly; else all ask for the scenario's.
    `secrets`, once it runs, are those of the keys that they are made with, spread evenly; else all are made with one."""

    name: str
    title: str
    credential: Credential
    needs: tuple[Need, ...]
    start: Callable[[Rig], RunningSide]
    targets: tuple[str, ...] = ()
    secrets: Callable[[], Sequence[str]] | None = None

    def missing(self) -> list[Need]:
        return [need for need in self.needs if not need.found()]
