"""Thousands of made-up calls to a control plane, by schemathesis: everything that its OpenAPI document admits and refuses.

A process of its own serves, over real sockets, and the program that is known as `schemathesis run` calls, with all its
checks. Who calls, and what, is said by `Callers`: `by_operator` here, `fuzzing_owners.by_two_owners`."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cli.conftest import START_SECONDS, Process, start, write_configuration

# A call that the document admits may be refused all the same: what it names is not there, or not as it was, or two of its
# fields can't both hold, which no schema says; then 4xx of these. But never 400, 405, 413, 415, 417.
ADMITTED = '["2xx", "304", "401", "403", "404", "409", "412", "422"]'

# Where somebody shows a password, and has failed too often: of thousands of made-up calls all but the first ten. Everywhere
# else 429 is a finding, for this control plane has no rate limits.
ADMITTED_SIGN_IN = ADMITTED.replace('"422"', '"422", "429"')

# What no schema can say, so that calls are refused which the document seems to admit: of `since`, `until` and `days` some
# exclude each other, and old times are not kept; the plan of a key, and the organization of an app, must exist.
_UNSAID = f"""
[[operations]]
include-path-regex = "/usage"
[operations.checks]
positive_data_acceptance.enabled = false

[[operations]]
include-path = ["/api/v1/sign-in", "/api/v1/access-tokens"]
[operations.checks]
positive_data_acceptance.expected-statuses = {ADMITTED_SIGN_IN}
"""


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """`cases` were sent; `said` is the program's report, whole, if something was `found`."""

    cases: int
    found: bool
    said: str


# Of one run nothing is left for the next: it would skip what was refused before.
#
# Calls in a row follow the links of the document, which are true; the program would make up a thousand others from names, and
# then get to few of either.
_SETTINGS = f"""
[cache]
enabled = false

[checks]
positive_data_acceptance.expected-statuses = {ADMITTED}

# The document says of all texts at once that none holds a NUL; a schema would have to say it of each. What has one is sent
# by test_requests.py.
[generation]
allow-x00 = false

[phases.stateful]
inference.algorithms = []
"""


@dataclass(frozen=True, slots=True)
class Callers:
    """`settings` is what the program's configuration has of them, tables and all; `options` are for its command line."""

    settings: str
    options: Sequence[str] = ()


def by_operator(token: str, operations: Collection[str], *, for_ids: Collection[str] = ()) -> Callers:
    """Calls `operations`; and those `for_ids` at random alone, not keyword by keyword, so that there are things to call the
    others on."""
    settings = f"""
[auth.openapi.operatorToken]
bearer = "{token}"
"""
    if for_ids:
        settings += f"""
[[operations]]
include-operation-id = {list(for_ids)}
phases.coverage.enabled = false
"""
    return Callers(settings, only([*operations, *for_ids]))


def only(operations: Collection[str]) -> Sequence[str]:
    """The options by which no other operations are called."""
    return [part for name in operations for part in ("--include-operation-id", name)]


@contextmanager
def serving_for_fuzz(directory: Path, postgres: str) -> Iterator[Process]:
    """A control plane of its own process, without rate limits."""
    file = write_configuration(directory / "gateway.yaml", postgres)
    text = file.read_text(encoding="utf-8")
    unlimited = "control_plane:\n  rate_per_actor: off\n  rate_per_address: off\n"
    # Where plans are published, they can be made up and changed, too.
    published = text.partition("plans:")[0].replace("routes: []", "routes: {from: control_plane}")
    file.write_text(published.replace("control_plane:\n", unlimited), encoding="utf-8")
    process = start(file)
    assert process.popen.stdout is not None
    log = process.popen.stdout
    # Nobody reads what it says, and it must not wait for that.
    reader = threading.Thread(target=lambda: [None for _ in log], daemon=True)
    reader.start()
    try:
        yield process
    finally:
        process.popen.terminate()
        process.popen.wait(START_SECONDS)
        reader.join()
        log.close()


def fuzz(directory: Path, url: str, callers: Callers, *, seed: int, examples: int) -> Fuzzed:
    """Up to `examples` calls of each operation in each phase. The same seed makes the same calls, as far as the same is
    answered."""
    settings = directory / "schemathesis.toml"
    settings.touch(mode=0o600)
    settings.write_text(_SETTINGS + callers.settings + _UNSAID, encoding="utf-8")
    ran = subprocess.run(
        [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("--config-file", str(settings), "run", f"{url}/api/v1/openapi.json"),
            *("--max-examples", str(examples), "--seed", str(seed), "--workers", "1"),
            *("--continue-on-failure", "--generation-database", "none", "--no-color"),
            *("--suppress-health-check", "all", "--request-timeout", "60", "--no-shrink", "--warnings", "off"),
            *callers.options,
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    said = ran.stdout + ran.stderr
    generated = re.search(r"(\d[\d,]*) generated", said)
    return Fuzzed(int(generated[1].replace(",", "")) if generated else 0, ran.returncode != 0, said)
