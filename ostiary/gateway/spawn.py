"""New processes for the slots of the supervisor, and one kept in reserve.

A process takes some 0.6 s of CPU to import what a worker needs, and on a machine under load several times that in time. A
spare has done so already and waits for its place: a dead worker is replaced in some 20 ms. It is a process of its own and
not a fork of one that has everything imported, because forks share the layout of their memory, which lets whoever can crash
workers learn it by and by."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ostiary
from ostiary.gateway.channel import Channel
from ostiary.gateway.node import NodeMemory

log = logging.getLogger("ostiary.gateway.supervisor")


@dataclass(frozen=True, slots=True)
class Child:
    """A process, our end of its channel, and the descriptors it inherited: of metrics regions, and of the node's if it is to
    be a worker."""

    process: asyncio.subprocess.Process
    channel: Channel
    regions: Sequence[int]
    node: int | None

    @property
    def pid(self) -> int:
        return self.process.pid


async def spawn(service: str, regions: Sequence[int], *, node: NodeMemory | None = None) -> Child:
    """Starts a process that runs `service` (`module:callable`, which builds it) once it is told to. It inherits
    `regions`, descriptors of metrics, that of `node`, and no other. Raises OSError.

    Nothing secret stands in the argument list, which every user of the machine can read. `-P`: the working directory is
    no place to import from."""
    ours, theirs = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ostiary.gateway.child", service),
            stdin=theirs.fileno(),
            pass_fds=regions if node is None else [*regions, node.descriptor],
            env=child_environment(node),
            start_new_session=True,  # a terminal's Ctrl-C and hang-up are for the supervisor to act on
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Child(process, await Channel.over(ours), regions, None if node is None else node.descriptor)


def child_environment(node: NodeMemory | None = None) -> dict[str, str]:
    """The supervisor's own, and for a checkout its place: a child runs the code of its supervisor, wherever it stands. The
    workers of a `node` have one hash seed (see there)."""
    environment = dict(os.environ)
    if node is not None:
        environment["PYTHONHASHSEED"] = str(node.hash_seed)
    home = Path(ostiary.__file__).resolve().parent.parent
    if home.name not in {"site-packages", "dist-packages"}:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(home), environment.get("PYTHONPATH"))))
    return environment


class Spare:
    """One process in reserve for several slots. `regions` gives the metrics regions of all of them."""

    def __init__(self, service: str, regions: Callable[[], Sequence[int]], node: NodeMemory | None) -> None:
        self._service = service
        self._regions = regions
        self._node = node
        self._child: Child | None = None
        self._wanted = asyncio.Event()

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child is not None and child.process.returncode is None else None

    def refill(self) -> None:
        """A slot has just become ready: now there is time to prepare the next process."""
        self._wanted.set()

    def take(self) -> Child | None:
        """The process in reserve, if there is one that lives. It may still be importing, which is sooner than a new one."""
        child, self._child = self._child, None
        if child is None or child.process.returncode is not None:
            return None
        return child

    async def keep(self) -> None:
        """Prepares a process whenever one is wanted; runs until cancelled. A spare that dies is not made again before
        a slot becomes ready: what kills it would kill the next one too."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                if self.pid is not None:
                    continue
                try:
                    self._child = await spawn(self._service, self._regions(), node=self._node)
                except OSError as error:
                    log.warning("spare_not_started", extra={"fields": {"problem": error.strerror}})
        finally:
            if (child := self.take()) is not None:
                child.channel.close()  # it ends by itself: there is nothing to drain
