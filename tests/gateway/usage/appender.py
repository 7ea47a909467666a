"""A worker to be killed: opens calls, appends them and acknowledges each on standard output once `append_ended` has returned.

python -m tests.gateway.usage.appender run DIRECTORY         until it is killed; 8 bytes a call
python -m tests.gateway.usage.appender lines DIRECTORY       a life for each line of the spool's code, killed at that line;
                                                             prints a JSON list of what each opened and acknowledged"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tests.gateway.usage.calls import begin, call, open_spool

CALLS_PER_LIFE = 360  # enough for the smallest segment to fill, so that a life goes through every line
_TRACED = ("spool.py", "run.py", "segment.py", "under_way.py")
_OPENED = 1 << 62  # in what a life tells: added to the number of a call that has gone upstream


def run(directory: Path) -> None:
    """Appends for ever, and seals now and then, as a worker's timer would."""
    spool = open_spool(directory)
    prefix = f"{os.getpid()}-"
    number = 0
    while True:
        slot = begin(spool, f"{prefix}{number}")
        if spool.append_ended(call(f"{prefix}{number}"), slot):
            os.write(1, struct.pack("<Q", number))
        number += 1
        if number % 170 == 0:
            spool.seal()


def lines(directory: Path) -> None:
    """Lives until one of them comes to its end; each is killed a few lines of code later than the one before."""
    lives = []
    step = 0
    while True:
        told, ended = _life(directory, kill_at=step)
        opened = [number - _OPENED for number in told if number >= _OPENED]
        acknowledged = [number for number in told if number < _OPENED]
        lives.append({"life": step, "opened": opened, "acknowledged": acknowledged})
        if ended:
            break
        # Every line while the spool is opened and for the first calls; then leaps of a prime through the many calls that
        # are all alike, so that each line of `append` is hit at different fillings.
        step += 1 if step < 120 else 199
    json.dump(lives, sys.stdout)


def _life(directory: Path, kill_at: int) -> tuple[list[int], bool]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _live(directory, kill_at, writer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    whole = len(data) // 8
    return list(struct.unpack(f"<{whole}Q", data[: whole * 8])), os.WIFEXITED(status)


def _live(directory: Path, kill_at: int, acknowledge: int) -> None:
    seen = 0

    def at_line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if event == "line":
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        return at_line

    def at_call(frame: FrameType, _event: str, _: Any) -> Any:
        return at_line if frame.f_code.co_filename.endswith(_TRACED) else None

    sys.settrace(at_call)
    spool = open_spool(directory, worker=str(kill_at))
    for number in range(CALLS_PER_LIFE):
        slot = begin(spool, f"{kill_at}-{number}")
        os.write(acknowledge, struct.pack("<Q", _OPENED + number))
        if spool.append_ended(call(f"{kill_at}-{number}"), slot):
            os.write(acknowledge, struct.pack("<Q", number))
        if number % 150 == 149:
            spool.seal()
    spool.close()


if __name__ == "__main__":
    {"run": run, "lines": lines}[sys.argv[1]](Path(sys.argv[2]))
