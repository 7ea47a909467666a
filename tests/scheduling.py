"""Which tests a worker of a parallel run gets, and when. A pytest plugin around pytest-xdist, which does the rest.

A file's tests go to one worker together. Files marked `long` go first, so that nobody waits for one at the end. Tests
marked `alone` go last: to one worker, after the others have ended. Without workers they only come in that order."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Tests wait more than they compute: there is room for one worker more than there are processors.
WORKERS_MAX = 6

# The controller, which schedules the tests, collects none: a worker tells it their ids, and nothing else. So each worker
# writes the ids of those that are to run alone into this file, before it tells what it has collected.
ALONE_IDS = "alone_ids_file"
_alone_ids_file = pytest.StashKey[Path]()


class QuietEndScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """xdist's own for units of tests, with the rule for those that are to run alone."""

    def __init__(self, config: pytest.Config, log: Producer, alone_ids_file: Path) -> None:
        super().__init__(config, log)
        self._alone_ids_file = alone_ids_file
        self._alone_ids: frozenset[str] = frozenset()

    def schedule(self) -> None:
        if self.collection is None:
            self._alone_ids = frozenset(json.loads(self._alone_ids_file.read_text()))
        super().schedule()

    def remove_node(self, node: WorkerController) -> str | None:
        """A worker has ended: the one that stays may be waiting for that."""
        interrupted: str | None = super().remove_node(node)
        if interrupted is not None:  # it ended its worker, and would end the next one
            self.workqueue[self._split_scope(interrupted)][interrupted] = True
        for name in [name for name, unit in self.workqueue.items() if self._is_alone(unit)]:
            self.workqueue.move_to_end(name)  # behind what a crashed worker has left
        for other in self.nodes:
            if other in self.registered_collections:
                self._reschedule(other)
        return interrupted

    def _reschedule(self, node: WorkerController) -> None:
        """A worker begins a test only when it has been given the next one too, or told that there is none: it gets units
        until it has enough, not one for each that it has done."""
        left = -1
        while left != len(self.workqueue):
            left = len(self.workqueue)
            super()._reschedule(node)

    def _split_scope(self, nodeid: str) -> str:
        """The name of a test's unit: its file, or the part of the file that runs alone."""
        file = nodeid.partition("::")[0]
        return f"{file} alone" if nodeid in self._alone_ids else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self._is_alone(next(iter(self.workqueue.values()))) and len(self.nodes) > 1:
            if any(other is not node and not other.shutting_down for other in self.nodes):
                node.shutdown()
            return  # or else this is the one that stays: `remove_node` comes back to it
        super()._assign_work_unit(node)

    def _is_alone(self, unit: dict[str, bool]) -> bool:
        return next(iter(unit)) in self._alone_ids


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # the order is that of the collection


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long_files = {item.path for item in items if item.get_closest_marker("long")}

    def turn(item: pytest.Item) -> int:
        if item.get_closest_marker("alone"):
            return 2
        return 0 if item.path in long_files else 1

    items.sort(key=turn)
    if workerinput := getattr(config, "workerinput", None):
        path = Path(workerinput[ALONE_IDS])
        fresh = path.with_name(f"{path.name}-{os.getpid()}")
        fresh.write_text(json.dumps([item.nodeid for item in items if item.get_closest_marker("alone")]))
        fresh.replace(path)  # all workers write the same


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` is: workers for the whole suite; none for tests that somebody has picked, who wants to see them run."""
    is_picked = (
        config.args_source is not pytest.Config.ArgsSource.TESTPATHS
        or config.getoption("markexpr") not in ("", "not full")  # what scripts/test says without --full
        or any(config.getoption(name, False) for name in ("keyword", "lf", "stepwise", "collectonly"))
        or config.getoption("capture") == "no"
    )
    if is_picked:
        return 0
    return min(len(os.sched_getaffinity(0)) + 1, WORKERS_MAX)


def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput[ALONE_IDS] = str(_file_of(node.config))


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> QuietEndScheduling:
    return QuietEndScheduling(config, log, _file_of(config))


def _file_of(config: pytest.Config) -> Path:
    if _alone_ids_file not in config.stash:
        directory = tempfile.TemporaryDirectory(prefix="ostiary-test-")
        config.add_cleanup(directory.cleanup)
        config.stash[_alone_ids_file] = Path(directory.name) / "alone.json"
    return config.stash[_alone_ids_file]
