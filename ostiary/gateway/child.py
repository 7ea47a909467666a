"""The program of every child process: `python -m ostiary.gateway.child MODULE:CALLABLE`, with the channel to the supervisor
as standard input. It imports all it will need before it asks what to do, so that it can wait in reserve."""

from __future__ import annotations

import importlib
import sys

import uvloop

from ostiary.gateway.lifecycle import Build, run_child, take_channel_socket


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    sock = take_channel_socket()
    build: Build = getattr(importlib.import_module(module), name)
    sys.exit(uvloop.run(run_child(sock, build)))


if __name__ == "__main__":
    main()
