"""`ostiary demo` from outside: what it prints works, and nothing of it is left however it ends.

Everything here is real: the command in a process of its own, its servers, its planes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from ostiary.core.config import load_file
from tests.support.directories import directory_for_all
from tests.support.pasting import Answer, paste, paste_into_bash

# Unloaded it is up in 3 s; the machine that runs the tests may be doing other things.
UP_SECONDS = 60
END_SECONDS = 30
ROOT = Path(__file__).resolve().parents[2]


class RunningDemo:
    """`ostiary demo` with its temporary files in `directory`; `text` is what it has printed."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.text = ""
        self._printed = threading.Condition()
        self._reading = True
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ostiary", "demo", *options],
            env={**os.environ, "TMPDIR": str(directory), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._printed:
                self.text += line
                self._printed.notify_all()
        with self._printed:
            self._reading = False
            self._printed.notify_all()

    def wait_until_up(self) -> None:
        with self._printed:
            self._printed.wait_for(lambda: " keys revoke " in self.text or not self._reading, UP_SECONDS)
        if " keys revoke " not in self.text:
            self.process.kill()
            pytest.fail(f"not up: {self.text}{self.stderr()}")

    def lines(self, section: int) -> list[str]:
        """The lines to paste of a numbered section."""
        body = re.split(r"^\d\. .*\n", self.text, flags=re.MULTILINE)[section]
        return body.partition("\n\n")[0].splitlines()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        status = self.process.wait(END_SECONDS)
        self._reader.join()
        return status

    def stderr(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()


def wait_until(holds: Callable[[], bool], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} not within {seconds} s"
        time.sleep(0.01)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def place() -> Iterator[Path]:
    with directory_for_all() as directory:
        yield directory


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with directory_for_all() as directory:
        running = RunningDemo(directory)
        running.wait_until_up()
        yield running
        running.end()


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., RunningDemo]]:
    """Starts demos that are killed at the end of the test if they still run."""
    started: list[RunningDemo] = []
    temporary = place / "temporary"
    temporary.mkdir()

    def start_one(*options: str) -> RunningDemo:
        started.append(RunningDemo(temporary, *options))
        return started[-1]

    yield start_one
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


# --- what it prints -------------------------------------------------------------------------------------------------


def test_the_bearer_line_answers_200(demo: RunningDemo) -> None:
    (line,) = demo.lines(1)
    answer = paste(line)
    assert answer.status == 200
    assert answer.json()["total"] >= 3
    assert answer.headers["x-served-for"], "the upstream was told which app calls"
    assert "ratelimit" in answer.headers


def test_the_signed_line_answers_200_once(demo: RunningDemo) -> None:
    """A replay that is answered is an attack that works."""
    (line,) = demo.lines(2)
    assert paste(line).status == 200
    assert refusal(paste(line)) == (401, "nonce_replayed")


def test_a_changed_byte_is_refused(demo: RunningDemo) -> None:
    (line,) = demo.lines(3)
    assert refusal(paste(line)) == (401, "credentials_invalid")


def test_the_call_over_the_limit_is_refused_with_the_time_to_wait(demo: RunningDemo) -> None:
    (loop,) = demo.lines(4)
    match = re.fullmatch(r"for i in 1 2 3 4; do (.*); echo; done", loop)
    assert match
    answers = [paste(match[1]) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert refusal(answers[-1]) == (429, "rate_limited")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 62


def test_the_test_key_sees_the_sandbox_alone(demo: RunningDemo) -> None:
    """A key for trying things out that reaches real clients is a leak."""
    (line,) = demo.lines(5)
    assert [client["name"] for client in paste(line).json()["data"]] == ["Test Client"]


@pytest.mark.parametrize("language", ["python", pytest.param("sh", marks=pytest.mark.full)])
def test_the_readmes_way_to_sign_is_accepted(demo: RunningDemo, language: str) -> None:
    """What a developer copies first must work; a newline too many in it costs an afternoon."""
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(rf"```{language}\n(.*?)```", readme, flags=re.DOTALL)
    (key_id,) = re.findall(r"--key-id (\S+)", demo.lines(6)[1])
    (secret,) = re.findall(r"OSTIARY_SECRET=(\S+)", demo.lines(6)[0])
    (gateway,) = re.findall(r"gateway +(http://\S+)", demo.text)
    block = (
        block.replace("ost_ak_live_…", key_id)
        .replace("ost_sk_live_…", secret)
        .replace("http://127.0.0.1:8080", gateway)
    )
    command = [sys.executable, "-c", block] if language == "python" else ["bash", "-c", block]
    shown = subprocess.run(
        command,
        env={**os.environ, "OSTIARY_KEY_ID": key_id, "OSTIARY_SECRET": secret},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.startswith("201" if language == "python" else "HTTP/1.1 200")


@pytest.mark.full
def test_every_printed_line_works_in_bash_with_curl(start: Callable[..., RunningDemo]) -> None:
    running = start()
    running.wait_until_up()
    for section, statuses in {
        1: [200],
        2: [200],
        3: [401],
        4: [200, 200, 200, 429],
        5: [200],
        6: [200, 201],
    }.items():
        answers = paste_into_bash("\n".join(running.lines(section)))
        assert [answer.status for answer in answers] == statuses, section
    export, usage, revoke = running.lines(7)
    shown = subprocess.run(
        ["bash", "-c", f"{export}; {usage}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert shown
    subprocess.run(["bash", "-c", f"{export}; {revoke}"], cwd=ROOT, capture_output=True, check=True)
    wait_until(lambda: paste(running.lines(1)[0]).status == 401, seconds=1, what="the revocation held")
    assert running.end() == 0


async def test_every_call_becomes_one_row(demo: RunningDemo) -> None:
    """A call that is not metered is not billed; one that is metered twice is a complaint."""
    (line,) = demo.lines(1)
    identities = {paste(line).headers["x-request-id"] for _ in range(5)}
    (configuration,) = demo.directory.glob("ostiary-demo-*/ostiary.yaml")
    url = load_file(configuration).stores.postgres
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT request_id, status FROM usage_events WHERE request_id = ANY($1)"
        deadline = time.monotonic() + 20
        while len(rows := await connection.fetch(query, list(identities))) < len(identities):
            assert time.monotonic() < deadline, f"{len(rows)} of {len(identities)} calls were shipped"
    finally:
        await connection.close()
    assert {row["request_id"] for row in rows} == identities
    assert len(rows) == len(identities)


def test_the_addresses_that_it_names_answer(demo: RunningDemo) -> None:
    urls = re.findall(r"http://127\.0\.0\.1:\d+/(?:docs|metrics|status)", demo.text)
    assert len(urls) == 3
    for url in urls:
        assert paste(f"curl -i {url}").status == 200, url


def test_no_secret_stands_in_a_file_for_others_or_in_a_command_line(demo: RunningDemo) -> None:
    """Every account of the machine can read command lines, and /tmp."""
    (directory,) = demo.directory.glob("ostiary-demo-*")
    secrets = [(directory / name).read_text().strip() for name in ("operator-token", "key-encryption-key")]
    secrets += re.findall(r"\b\w*sk_(?:live|test)_\w+", demo.text)
    assert len(secrets) > 4
    for name in ("operator-token", "key-encryption-key", "ostiary.yaml"):
        assert (directory / name).stat().st_mode & 0o077 == 0, name
    commands = " ".join(word for process in demo.descendants() for word in process.cmdline())
    configuration = (directory / "ostiary.yaml").read_text()
    logs = "".join(log.read_text() for log in (directory / "logs").iterdir())
    for secret in secrets:
        assert secret not in commands
        assert secret not in configuration
        assert secret not in logs


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json()["code"]


# --- how it ends ----------------------------------------------------------------------------------------------------


def test_nothing_is_left_when_it_is_asked_to_end(start: Callable[..., RunningDemo]) -> None:
    running = start()
    running.wait_until_up()
    descendants = running.descendants()
    assert len(descendants) >= 6, "Postgres, Valkey, control plane, supervisor, workers"
    assert running.end(signal.SIGINT) == 0
    assert [process for process in descendants if not is_gone(process)] == []
    assert list(running.directory.iterdir()) == []
    assert running.stderr() == ""


def test_nothing_is_left_when_it_is_killed(start: Callable[..., RunningDemo]) -> None:
    """An out-of-memory kill would leave databases that hold ports and memory until the next boot."""
    running = start()
    running.wait_until_up()
    descendants = running.descendants()
    running.end(signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, descendants)), seconds=END_SECONDS, what="every process ended")
    wait_until(lambda: not any(running.directory.iterdir()), seconds=END_SECONDS, what="every file removed")


@pytest.mark.parametrize("moment", ["postgres", "postgres/postmaster.pid", "ostiary.yaml", "logs/gateway.log"])
def test_nothing_is_left_when_it_is_interrupted_on_its_way_up(start: Callable[..., RunningDemo], moment: str) -> None:
    """The impatient press Ctrl-C in the first second, when half of it runs."""
    running = start()
    wait_until(lambda: any(running.directory.glob(f"ostiary-demo-*/{moment}")), seconds=UP_SECONDS, what=moment)
    descendants = running.descendants()
    assert running.end() == 0
    assert [process for process in descendants if not is_gone(process)] == []
    assert list(running.directory.iterdir()) == []
    assert "Traceback" not in running.stderr()


def test_a_child_that_fails_ends_it_with_the_childs_last_lines(start: Callable[..., RunningDemo]) -> None:
    """A demo that stays up half dead shows errors that are not its subject."""
    running = start()
    running.wait_until_up()
    (gateway,) = [
        process
        for process in running.descendants()
        if process.cmdline()[-3:-1] == ["gateway", "-c"] and process.ppid() == running.process.pid
    ]
    gateway.send_signal(signal.SIGTERM)
    assert running.process.wait(END_SECONDS) == 1
    shown = running.stderr()
    assert "ostiary gateway ended with status" in shown
    assert "It printed last:" in shown
    assert list(running.directory.iterdir()) == []


# --- with --data ----------------------------------------------------------------------------------------------------


def test_keys_still_work_after_a_restart_with_the_same_data(start: Callable[..., RunningDemo], place: Path) -> None:
    data = str(place / "kept")
    first = start("--data", data)
    first.wait_until_up()
    (old_line,) = first.lines(1)
    (old_id,) = re.findall(r"--key-id (\S+)", first.lines(6)[1])
    (port,) = re.findall(r"127\.0\.0\.1:(\d+)", old_line)
    assert first.end() == 0
    second = start("--data", data, "--port", port)
    second.wait_until_up()
    assert paste(old_line).status == 200
    assert re.search(rf"Keys of earlier starts that still work: .*{old_id}", second.text)
    third = start("--data", data)
    assert third.process.wait(END_SECONDS) == 2
    assert "another demo is running" in third.stderr()
    assert second.end() == 0


def test_a_directory_with_something_else_in_it_is_left_alone(start: Callable[..., RunningDemo], tmp_path: Path) -> None:
    """`--data ~` would strew files over a home."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    running = start("--data", str(other))
    assert running.process.wait(END_SECONDS) == 2
    assert "holds something else" in running.stderr()
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
