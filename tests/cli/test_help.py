"""The commands as someone finds them who knows only `ostiary --help`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ostiary.cli.main import main
from ostiary.demo.valkey import free_port


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group, with the words that lead to it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, f"{name} is listed and can't be had"
            yield from walk(found, (*path, name))


TREE = dict(walk(main))
LISTS = frozenset(
    {
        *("list", "summary", "daily", "endpoints", "errors", "overage", "logs", "tail", "reconcile", "retention"),
        *("members", "invitations"),
        *("check", "explain", "diff", "status", "history", "verify", "head", "stream"),
    }
)
LEAVES = {path: command for path, command in TREE.items() if not isinstance(command, click.Group)}


def test_every_command_of_the_contract_is_there() -> None:
    """Scripts call these by name."""
    assert {" ".join(path) for path in LEAVES} == {
        *("demo", "gateway", "control-plane", "sign"),
        *("config check", "config explain", "config diff", "config schema"),
        *("db migrate", "db status"),
        *("orgs create", "orgs list", "apps create", "apps list", "keys create", "keys list", "keys revoke"),
        *("apps show", "apps update", "apps approve", "apps reject", "apps suspend", "apps delete"),
        *("plans list", "plans show", "plans create", "plans replace", "plans delete"),
        *("keys show", "keys update", "keys rotate", "keys end", "keys rewrap"),
        *("keys limits set", "keys limits show", "keys limits remove"),
        *("routes diff", "routes apply", "routes rollback", "routes history", "routes show", "routes status"),
        *("usage summary", "usage daily", "usage endpoints", "usage errors", "usage overage", "usage logs"),
        *("usage tail", "usage shadow", "usage quotas", "usage quota-events", "usage reconcile", "usage retention"),
        *("orgs rename", "orgs delete", "orgs members", "orgs set-role", "orgs remove-member"),
        *("orgs invite", "orgs invitations", "orgs revoke-invitation"),
        *("users list", "users invite", "users accept", "users set-role", "users disable", "users enable"),
        *("tokens create", "tokens list", "tokens revoke", "sign-in"),
        *("usage consume", "usage stream"),
        *("audit list", "audit export", "audit head", "audit verify"),
        "events list",
    }


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_help_shows_an_example_that_is_spelt_right(path: tuple[str, ...]) -> None:
    """An example is what people copy; one with an option that is gone teaches the wrong thing."""
    shown = CliRunner().invoke(main, [*path, "--help"])
    assert shown.exit_code == 0
    _, marker, examples = shown.output.partition("Example")
    assert marker, shown.output
    assert CliRunner().invoke(main, [*path, "-h"]).output == shown.output
    examples = examples.partition("\nOptions:")[0]
    assert " ".join(["ostiary", *path]) in examples or path == ("config", "schema")
    known = {option for command in LEAVES.values() for parameter in command.params for option in parameter.opts}
    for word in examples.split():
        if word.startswith("--"):
            assert word in known, word


@pytest.mark.parametrize("path", [path for path in LEAVES if path[-1] in LISTS], ids=" ".join)
def test_every_list_can_be_had_as_json(path: tuple[str, ...]) -> None:
    """A table is for eyes; a script that cuts columns breaks on the first name with a blank in it."""
    assert "--json" in {option for parameter in LEAVES[path].params for option in parameter.opts}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    silent = [p.name for p in LEAVES[path].params if isinstance(p, click.Option) and not p.help]
    assert silent == []
    assert LEAVES[path].get_short_help_str(200).endswith(".")


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(path: tuple[str, ...]) -> None:
    """0 done, 1 failed, 2 used wrongly or a bad configuration: what scripts branch on."""
    refused = CliRunner().invoke(main, [*path, "--no-such-option"])
    assert refused.exit_code == 2
    assert "--no-such-option" in refused.stderr
    assert refused.stdout == ""


WITH_CONFIGURATION = [path for path in LEAVES if "--config" in {o for p in LEAVES[path].params for o in p.opts}]
OVER_THE_API = [path for path in LEAVES if "--token-file" in {o for p in LEAVES[path].params for o in p.opts}]


def needed(path: tuple[str, ...]) -> list[str]:
    """Arguments that are well formed, for all that a command must have but --config."""
    words = []
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Argument) and isinstance(parameter.type, click.Path):
            words.append(__file__)  # one that can be read
        elif parameter.required and "--config" not in parameter.opts:
            word = "1" if isinstance(parameter.type, click.IntRange) else "x"
            if isinstance(parameter.type, click.Choice):
                word = str(parameter.type.choices[0])
            words += [word] if isinstance(parameter, click.Argument) else [parameter.opts[0], word]
    return words


@pytest.mark.parametrize("path", WITH_CONFIGURATION, ids=" ".join)
@pytest.mark.parametrize("text", [None, "version: 1\nroutes: []\nrouts: []\nplants: {}\n"], ids=["missing", "mistaken"])
def test_a_bad_configuration_ends_with_2_and_every_problem_on_stderr(
    path: tuple[str, ...], text: str | None, tmp_path: Path
) -> None:
    """A supervisor that restarts on 1 and not on 2 must not restart a typing error for ever."""
    file = tmp_path / "gateway.yaml"
    if text is not None:
        file.write_text(text)
    refused = CliRunner().invoke(main, [*path, "-c", str(file)])
    assert refused.exit_code == 2
    assert refused.stdout == ""
    problems = refused.stderr.splitlines()
    assert len(problems) == (1 if text is None else 2)
    assert all(problem.startswith("error: ") and "gateway.yaml" in problem for problem in problems)


@pytest.mark.parametrize("path", OVER_THE_API, ids=" ".join)
def test_without_a_token_is_wrong_usage_and_without_an_answer_a_failure(path: tuple[str, ...]) -> None:
    url = ["--url", f"http://127.0.0.1:{free_port()}"]
    runner = CliRunner(env={"OSTIARY_OPERATOR_TOKEN": None, "OSTIARY_TOKEN": None})
    refused = runner.invoke(main, [*path, *needed(path), *url])
    assert refused.exit_code == 2
    assert "OSTIARY_OPERATOR_TOKEN" in refused.stderr
    failed = runner.invoke(main, [*path, *needed(path), *url], env={"OSTIARY_OPERATOR_TOKEN": "t" * 32})
    assert failed.exit_code == 1
    assert "is the control plane running there?" in failed.stderr


def test_a_shell_completes_commands_as_the_help_says() -> None:
    """Eighty commands are more than anyone types from memory."""
    asked = {"_OSTIARY_COMPLETE": "bash_complete", "COMP_WORDS": "ostiary usage sh", "COMP_CWORD": "2"}
    program = "from ostiary.cli.main import main; main(prog_name='ostiary')"
    answer = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["plain,shadow"]
    script = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"_OSTIARY_COMPLETE": "zsh_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_OSTIARY_COMPLETE=zsh_complete" in script.stdout
