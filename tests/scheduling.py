"""Which tests a worker of a parallel run gets, and when. A pytest plugin around pytest-xdist, which does the rest.

A file's tests go to one worker together. Files marked `long` go first, so that nobody waits for one at the end. Tests
marked `alone` go last: to one worker, after the others have ended. Without workers they only come in that order."""

from __future__ import annotations

import json
import os
import tempfile
from collections import OrderedDict
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Tests wait more than they compute: there is room for one worker more than there are processors.
WORKERS_MAX = 6

# The controller, which schedules the tests, collects none: a worker tells it their ids, and nothing else. So each worker
# writes the ids of those that are to run alone into this file, before it tells what it has collected.
ALONE_IDS = "alone_ids_file"
_alone_ids_file = pytest.StashKey[Path]()


class QuietEndScheduling(LoadScopeScheduling):
    """xdist's own for units of tests, with the rule for those that are to run alone."""

    def __init__(self, config: pytest.Config, alone_ids_file: Path) -> None:
        super().__init__(config)
        self._alone_ids_file = alone_ids_file
        self._alone_ids: frozenset[str] = frozenset()

    def schedule(self) -> None:
        if self.collection is None:
            self._alone_ids = frozenset(json.loads(self._alone_ids_file.read_text()))
        super().schedule()

    def remove_node(self, node: WorkerController) -> str | None:
        """A worker has ended: the one that stays may be waiting for that."""
        interrupted = super().remove_node(node)
        # What a crashed worker leaves was put behind all others.
        self.workqueue = OrderedDict(sorted(self.workqueue.items(), key=lambda unit: self._is_alone(unit[1])))
        for other in self.nodes:
            if other in self.registered_collections:
                self._reschedule(other)
        return interrupted

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
    def turn(item: pytest.Item) -> int:
        if item.get_closest_marker("alone"):
            return 2
        return 0 if item.get_closest_marker("long") else 1

    items.sort(key=turn)
    if workerinput := getattr(config, "workerinput", None):
        path = Path(workerinput[ALONE_IDS])
        fresh = path.with_name(f"{path.name}-{os.getpid()}")
        fresh.write_text(json.dumps([item.nodeid for item in items if item.get_closest_marker("alone")]))
        fresh.replace(path)  # all workers write the same


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `-n auto` is: workers for the whole suite; none for tests that somebody has picked, who wants to see them run."""
    option = config.option
    is_picked = config.args_source is not pytest.Config.ArgsSource.TESTPATHS or option.keyword or option.lf
    if is_picked or option.stepwise or option.collectonly or option.capture == "no":
        return 0
    return min(len(os.sched_getaffinity(0)) + 1, WORKERS_MAX)


def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput[ALONE_IDS] = str(_file_of(node.config))


def pytest_xdist_make_scheduler(config: pytest.Config) -> QuietEndScheduling:
    return QuietEndScheduling(config, _file_of(config))


def _file_of(config: pytest.Config) -> Path:
    if _alone_ids_file not in config.stash:
        directory = tempfile.TemporaryDirectory(prefix="ostiary-test-")
        config.add_cleanup(directory.cleanup)
        config.stash[_alone_ids_file] = Path(directory.name) / "alone.json"
    return config.stash[_alone_ids_file]
