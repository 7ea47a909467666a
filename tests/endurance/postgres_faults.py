"""Postgres away, in the two ways that a client sees: nobody listens, and nobody answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from ostiary.demo.stores import EmbeddedPostgres


@contextmanager
def frozen(postgres: EmbeddedPostgres) -> Iterator[None]:
    """SIGSTOP for the server and every process of it: connections stay open, and nobody answers."""
    server = psutil.Process(postgres.pid)
    stopped = [server.pid]
    server.suspend()  # first: from here on it makes no new ones
    for child in server.children(recursive=True):
        try:
            child.suspend()
            stopped.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    try:
        yield
    finally:
        for pid in reversed(stopped):
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


@contextmanager
def stopped(postgres: EmbeddedPostgres) -> Iterator[None]:
    """`pg_ctl stop -m immediate`: connections break, and nobody listens."""
    postgres.pg_ctl("stop", "-m", "immediate")
    try:
        yield
    finally:
        postgres.start_again()
