"""A gateway before a raw origin, open to everyone, for clients that misbehave at its edge: interpreted or compiled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance import stack
from tests.support.gateway_process import REPOSITORY, GatewayProcess

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
routes:
  - {{name: all, match: {{path: "/**"}}, upstream: origin, auth: {{schemes: [anonymous]}}}}
"""


def compiled_package() -> Path:
    """What `scripts/compile` makes; a minute the first time."""
    done = subprocess.run([REPOSITORY / "scripts" / "compile"], capture_output=True, text=True, check=True, timeout=600)
    return Path(done.stdout.strip())


@contextmanager
def running_gateway(directory: Path, *, limits: str = "", package: Path = REPOSITORY) -> Iterator[GatewayProcess]:
    """One worker. `limits` are fields of `gateway.limits`, as YAML."""
    with stack.raw_origin(directory) as origin:
        path = directory / "gateway.yaml"
        path.write_text(CONFIGURATION.format(directory=directory, origin=origin, limits=limits))
        with GatewayProcess(["ostiary", "gateway", "-c", str(path)], package=package) as gateway:
            yield gateway.wait_ready()
