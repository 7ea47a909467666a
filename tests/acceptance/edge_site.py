"""A gateway before a raw origin, open to everyone, for clients that misbehave at its edge: interpreted or compiled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.acceptance.stack import raw_origin
from tests.support.gateway_process import REPOSITORY, GatewayProcess
from tests.support.processors import children_on

CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: 1}}
  admin: {{host: 127.0.0.1, port: 0}}
  drain: 1s
  limits: {{{limits}}}
stores: {{spool: "{directory}/spool"}}
upstreams:
  origin: {{targets: [{{url: "http://127.0.0.1:{origin}"}}]}}
  good: {{targets: [{{url: "http://127.0.0.1:{good_origin}"}}]}}
routes:
  - {{name: all, match: {{path: "/**"}}, upstream: origin, auth: {{schemes: [anonymous]}}}}
  - {{name: good, match: {{hosts: [{good_host}], path: "/**"}}, upstream: good, auth: {{schemes: [anonymous]}}}}
"""
# Who asks for this host is served by an origin that serves nobody else: what others do to theirs does not show there.
GOOD_HOST = "good.test"


def compiled_package() -> Path:
    """What `scripts/compile` makes; a minute the first time."""
    done = subprocess.run([REPOSITORY / "scripts" / "compile"], capture_output=True, text=True, check=True, timeout=600)
    return Path(done.stdout.strip())


@contextmanager
def running_gateway(
    directory: Path, *, limits: str = "", package: Path = REPOSITORY, origin_on: set[int] | None = None
) -> Iterator[GatewayProcess]:
    """One worker. `limits` are fields of `gateway.limits`, as YAML; `origin_on` the processors of the origin that is not the
    good clients' own."""
    good_directory = directory / "good"
    good_directory.mkdir()
    with ExitStack() as stack:
        with children_on(origin_on or os.sched_getaffinity(0)):
            origin = stack.enter_context(raw_origin(directory))
        good_origin = stack.enter_context(raw_origin(good_directory))
        path = directory / "gateway.yaml"
        text = CONFIGURATION.format(
            directory=directory, origin=origin, good_origin=good_origin, good_host=GOOD_HOST, limits=limits
        )
        path.write_text(text)
        gateway = stack.enter_context(GatewayProcess(["ostiary", "gateway", "-c", str(path)], package=package))
        yield gateway.wait_ready()
