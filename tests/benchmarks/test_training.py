"""What a profiled build is trained by. Whether the build is faster is for the bench to say."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import FrameType

import pytest

from benchmarks.training import train
from hatch_build import how_to_compile

ROOT = Path(__file__).parent.parent.parent
# Of the request path what training must come by: each phase, and what reads and writes on both sides.
PHASES = ("admit", "match", "authenticate", "authorize", "prepare", "forward", "respond", "record")
TRAINED = (
    *(f"phases/{name}.py" for name in PHASES),
    *(f"wire/{name}.py" for name in ("client", "upstream", "pool", "request_head", "response_head", "grammar")),
    *("pipeline.py", "signal.py", "usage/spool.py", "usage/record.py", "telemetry/meters.py", "telemetry/metrics.py"),
)


async def test_training_comes_by_every_phase_of_the_request_path(tmp_path: Path) -> None:
    """What it does not come by is compiled as if nobody ever did it."""
    seen: set[str] = set()

    def called(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(called)
    try:
        await train(tmp_path, requests=1)
    finally:
        sys.setprofile(None)
    came_by = {
        str(Path(name).relative_to(ROOT / "ostiary" / "gateway")) for name in seen if "/ostiary/gateway/" in name
    }
    assert set(TRAINED) - came_by == set()
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["ostiary"]["compiled"]["modules"]
    compiled = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert {ROOT / "ostiary" / "gateway" / name for name in TRAINED} <= compiled


@pytest.mark.parametrize(("asked", "how"), [("", ""), ("0", ""), ("1", "1"), ("profiled", "profiled")])
def test_how_a_wheel_is_compiled(asked: str, how: str) -> None:
    assert how_to_compile(asked) == how


def test_an_unknown_way_to_compile_is_refused() -> None:
    """`OSTIARY_COMPILE=true` would install the sources, at twice the CPU, and nobody would know."""
    with pytest.raises(SystemExit, match="say 1 or profiled"):
        how_to_compile("true")
