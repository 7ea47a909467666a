"""`ostiary config`, as an operator and as a script use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ostiary.cli.main import main
from ostiary.core.resources import resource_directory
from tests.core.config.loading import SECRET, VALID, varied


@pytest.fixture
def gateway_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(VALID, encoding="utf-8")
    return path


def run(*arguments: str | Path, secret: str = SECRET) -> Result:
    return CliRunner().invoke(main, ["config", *map(str, arguments)], env={"SECRET": secret}, catch_exceptions=False)


def test_check_says_ok_and_what_there_is(gateway_yaml: Path) -> None:
    """A script could not tell a file that is accepted from one that was not read."""
    result = run("check", gateway_yaml)
    assert (result.exit_code, result.stdout) == (0, "ok: 1 route, 2 upstreams, 1 plan, 1 key\n")
    answer = json.loads(run("check", "--json", gateway_yaml).stdout)
    assert answer == {"ok": True, "routes": 1, "upstreams": 2, "plans": 1, "keys": 1, "warnings": []}


def test_check_lists_every_problem_on_stderr_and_exits_with_2(gateway_yaml: Path) -> None:
    """Row 111: a deployment would go on with a file that the gateway refuses."""
    gateway_yaml.write_text(varied("requests: 100", "requests: 0").replace("[bearer]", "[baerer]"), encoding="utf-8")
    result = run("check", gateway_yaml)
    assert result.exit_code == 2
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith(f"{gateway_yaml}:3: plans.standard.limits[0].requests: ")
    assert second.startswith(f"{gateway_yaml}:11: routes[0].auth.schemes[0]: ")
    as_json = run("check", "--json", gateway_yaml)
    assert as_json.exit_code == 2
    problems = json.loads(as_json.stdout)["problems"]
    assert [(problem["line"], problem["mend"]) for problem in problems] == [(3, None), (11, "did you mean 'bearer'?")]


def test_check_refuses_a_missing_file_as_any_other(tmp_path: Path) -> None:
    """Row 111: a traceback, or exit status 1, is not what a script expects of a bad configuration."""
    result = run("check", tmp_path / "missing.yaml")
    assert (result.exit_code, result.stderr) == (
        2,
        f"{tmp_path}/missing.yaml:1: can't be read: No such file or directory\n",
    )


def test_check_tells_warnings_and_accepts(gateway_yaml: Path) -> None:
    """A warning that refused would be a problem; one that is not told is of no use."""
    gateway_yaml.write_text(varied("[bearer]", "[hmac]"), encoding="utf-8")
    result = run("check", gateway_yaml)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {gateway_yaml}:1: signed calls without stores.redis")


def test_explain_tells_the_route_the_caller_and_the_others(gateway_yaml: Path) -> None:
    """`why does this call get 403?` would have to be asked of the gateway's log."""
    result = run("explain", gateway_yaml, "GET", "http://h/v1/clients/17", "-H", "X-Api-Key: ak_test_1:")
    assert result.exit_code == 0
    assert result.stdout.startswith("clients: it takes any host, /v1/clients/** covers /v1/clients/17, it takes GET")
    assert "  caller: ak_test_1 (test), plan standard: 100 in any minute\n" in result.stdout
    refused = json.loads(run("explain", "--json", gateway_yaml, "PUT", "/v1/clients").stdout)
    assert refused["answer"] == "method_not_allowed"
    assert refused["others"] == [{"route": "clients", "reason": "takes GET, HEAD, POST, not PUT"}]


@pytest.mark.parametrize(
    ("arguments", "message"), [(("GET", "x"), "begins with a slash"), (("GET", "/", "-H", "x"), "a header is written")]
)
def test_explain_refuses_what_it_can_not_read(gateway_yaml: Path, arguments: tuple[str, ...], message: str) -> None:
    """The answer would be for another call."""
    result = run("explain", gateway_yaml, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_diff_says_what_would_change(gateway_yaml: Path, tmp_path: Path) -> None:
    """A change would be understood when it has done its harm."""
    after = tmp_path / "after.yaml"
    after.write_text(varied("requests: 100", "requests: 10"), encoding="utf-8")
    result = run("diff", gateway_yaml, after)
    assert result.exit_code == 0
    assert result.stdout == (
        "changed plan standard: limits: 100 in any minute -> 10 in any minute\n    callers are refused sooner\n"
    )
    (change,) = json.loads(run("diff", "--json", gateway_yaml, after).stdout)
    assert change == {
        "kind": "changed",
        "subject": "plan standard",
        "field": "limits",
        "before": "100 in any minute",
        "after": "10 in any minute",
        "meaning": "callers are refused sooner",
    }
    assert run("diff", gateway_yaml, gateway_yaml).stdout == "no difference: both do the same\n"
    assert run("diff", gateway_yaml, tmp_path / "missing.yaml").exit_code == 2


def test_schema_prints_what_the_repository_has() -> None:
    """The schema that editors load is made with this command."""
    result = run("schema")
    assert result.stdout == (resource_directory("config") / "schema.json").read_text(encoding="utf-8")
    assert run("schema", "--markdown").stdout.startswith("### The file\n")


def test_no_command_shows_a_secret(gateway_yaml: Path, tmp_path: Path) -> None:
    """Terminals are recorded, and their text is pasted into tickets."""
    after = tmp_path / "after.yaml"
    after.write_text(
        VALID.replace("${SECRET}", "canary-" * 8).replace("plan: standard", "plan: gone"), encoding="utf-8"
    )
    changed = tmp_path / "changed.yaml"
    changed.write_text(VALID.replace("${SECRET}", "canary-" * 8), encoding="utf-8")
    shown = ""
    for arguments in (
        ("check", after),
        ("check", "--json", after),
        ("check", changed),
        ("diff", gateway_yaml, changed),
        ("explain", changed, "GET", "/v1/clients", "-H", f"Authorization: Bearer {'canary-' * 8}"),
    ):
        shown += run(*arguments).output
    assert "canary" not in shown
    assert SECRET not in shown
