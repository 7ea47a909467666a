"""Notices an event loop that stands still, while it does: a callback that computes or waits, a collection of garbage, a
processor taken away. Everything that the process serves waits meanwhile, and afterwards nothing is left to see."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from itertools import islice
from typing import Final

from ostiary.gateway.telemetry.metrics import Metrics

log: Final = logging.getLogger("ostiary.gateway.watchdog")

STALL_SECONDS: Final = 0.2
BEAT_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 0.1  # so a stall is told after at most 0.3 s
FRAMES_MAX: Final = 12


class Watchdog:
    """A heartbeat on the loop, and a thread that looks whether it comes. What is logged of a stack is places in the program,
    never values. Compiled modules have no frames: the nearest interpreted caller stands for them.

    Twenty wake-ups a second between the two, of 10 µs each."""

    def __init__(self, metrics: Metrics) -> None:
        self._counter = metrics.counter("event_loop_stalls_total")
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat = time.monotonic()
        self._told = 0.0  # the beat after which a stall was told
        self._timer: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    def start(self) -> None:
        self._beat = time.monotonic()
        self._timer = self._loop.call_later(BEAT_SECONDS, self._on_beat)
        self._thread.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._stop.set()
        self._thread.join()

    def _on_beat(self) -> None:
        now = time.monotonic()
        stood_still = now - self._beat - BEAT_SECONDS
        self._beat = now
        self._timer = self._loop.call_later(BEAT_SECONDS, self._on_beat)
        if stood_still >= STALL_SECONDS:
            self._counter.add(1)
            log.warning("event_loop_stalled", extra={"fields": {"seconds": round(stood_still, 3)}})

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            beat = self._beat
            late = time.monotonic() - beat - BEAT_SECONDS
            if late < STALL_SECONDS or beat == self._told:
                continue
            self._told = beat
            frame = sys._current_frames().get(self._loop_thread)
            # Innermost first. Not traceback.extract_stack: it would read source files.
            walk = islice(traceback.walk_stack(frame), FRAMES_MAX) if frame is not None else ()
            places = [f"{each.f_code.co_filename}:{line} {each.f_code.co_name}" for each, line in walk]
            log.warning("event_loop_hangs", extra={"fields": {"seconds": round(late, 3), "stack": places}})
