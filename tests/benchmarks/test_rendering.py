from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.rendering import TEMPLATES, render, render_file
from benchmarks.rig import common_values

VALUES = {
    **common_values(Path("/somewhere")),
    "port": 18001,
    "buffers": "",
    "admin_port": 18002,
    "upstream_port": 18003,
    "redis_port": 18004,
    "postgres_url": "postgresql://nobody@/postgres?host=/somewhere",
}


def test_only_placeholders_are_replaced() -> None:
    """nginx, Lua and YAML have `$name`, `{name}` and `%s` of their own."""
    assert render('@{port} $port {port} "${PORT}" %s', {"port": 1}) == '1 $port {port} "${PORT}" %s'


def test_a_placeholder_without_a_value_is_refused() -> None:
    """A hole in a configuration would be measured as something else, or fail with a worse message."""
    with pytest.raises(KeyError, match="port"):
        render("listen @{port}", {})


@pytest.mark.parametrize("name", [path.name for path in TEMPLATES.iterdir() if path.suffix != ".py" and path.is_file()])
def test_every_template_is_filled_from_the_values_there_are(name: str, tmp_path: Path) -> None:
    """A peer that can't be rendered is found here, not by the one who has it installed."""
    path = render_file(name, tmp_path, VALUES)
    assert path == tmp_path / name
    assert "@{" not in path.read_text()


@pytest.mark.parametrize("name", ["ostiary-whole-job.yaml", "ostiary-plain.yaml"])
def test_ostiary_listens_on_the_rendered_port_with_one_worker(name: str) -> None:
    """More than one worker would be measured as one."""
    listen = yaml.safe_load(render((TEMPLATES / name).read_text(), VALUES))["gateway"]["listen"]
    assert listen == {"host": "127.0.0.1", "port": 18001, "workers": 1}


def test_the_secret_of_the_key_is_not_in_ostiarys_file() -> None:
    """The bench follows the rule that the gateway asks of operators."""
    assert str(VALUES["secret"]) not in render((TEMPLATES / "ostiary-whole-job.yaml").read_text(), VALUES)
