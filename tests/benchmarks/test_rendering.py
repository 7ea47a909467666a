from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.rendering import TEMPLATES, render, render_file
from benchmarks.rig import common_values
from benchmarks.routes import routes_targets, routes_text
from ostiary.core.config import load_text
from ostiary.core.routing import RouteEntry, compile_routes

VALUES = {
    **common_values(Path("/somewhere")),
    "port": 18001,
    "settings": "",
    "listen": "",
    "workers": 1,
    "tls": "",
    "more": "",
    "echo_port": 18005,
    "routes": routes_text(3),
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


@pytest.mark.parametrize("name", [path.name for path in TEMPLATES.glob("ostiary-*.yaml")])
def test_ostiary_listens_on_the_rendered_port_with_one_worker(name: str) -> None:
    """More than one worker would be measured as one."""
    listen = yaml.safe_load(render((TEMPLATES / name).read_text(), VALUES))["gateway"]["listen"]
    assert listen == {"host": "127.0.0.1", "port": 18001, "workers": 1}


def test_each_limit_of_the_leased_job_is_leased() -> None:
    """One that is not would have each call ask Redis, and the others be leased for nothing."""
    plan = yaml.safe_load(render((TEMPLATES / "ostiary-leased.yaml").read_text(), VALUES))["plans"]["standard"]
    limits = [plan["rate"], *plan["limits"], *plan["quotas"]]
    assert [limit["counting"] for limit in limits] == ["leased"] * 3


def test_the_secret_of_the_key_is_not_in_ostiarys_file() -> None:
    """The bench follows the rule that the gateway asks of operators."""
    assert str(VALUES["secret"]) not in render((TEMPLATES / "ostiary-whole-job.yaml").read_text(), VALUES)


def test_every_one_of_many_routes_is_asked_for_at_its_own_path() -> None:
    """Routes that nobody asks for stay out of the caches, and would be measured as if they cost nothing."""
    text = render((TEMPLATES / "ostiary-routes.yaml").read_text(), VALUES | {"routes": routes_text(50)})
    table = compile_routes(load_text(text, name="ostiary.yaml", environment={}).routes)
    targets = routes_targets(50)
    found = [table.match(b"api.example.com", target.encode().partition(b"?")[0], "GET") for target in targets]
    assert [match.route.name for match in found if isinstance(match, RouteEntry)] == [f"route-{n}" for n in range(50)]
    assert len({len(target) for target in targets}) == 1
