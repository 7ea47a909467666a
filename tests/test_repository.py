"""What the repository promises about itself: scripts, image, wheel, documents."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["demo", "test", "check", "lock", "failure-matrix", "prove"]
# Links and code that documents name; not pages on the web.
LINK = re.compile(r"\[[^]]*\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(?:\w+::)?(test_\w+)`")


def run(
    *command: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, **(environment or {})}
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=300, check=False)


def environment_without_python(tmp_path: Path) -> dict[str, str]:
    """A PATH with the usual programs and no Python."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "cat", "cksum", "rm", "basename"):
        found = run("bash", "-c", f"command -v {name}").stdout.strip()
        (programs / name).symlink_to(found)
    return {"PATH": str(programs)}


# --- scripts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself_from_any_directory(script: str, tmp_path: Path) -> None:
    answer = run(str(ROOT / "scripts" / script), "--help", cwd=tmp_path)
    assert answer.returncode == 0
    assert answer.stdout.startswith("Usage: scripts/" + script)
    assert not answer.stderr


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/test"])
def test_a_machine_without_python_is_told_what_to_install(script: str, tmp_path: Path) -> None:
    """The first contact of a newcomer would be "command not found"."""
    checkout = tmp_path / "checkout"
    (checkout / "requirements").mkdir(parents=True)
    (checkout / "scripts").symlink_to(ROOT / "scripts")
    answer = subprocess.run(
        ["/bin/bash", str(checkout / script)],
        env={**environment_without_python(tmp_path), "BASH_ENV": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13" in answer.stderr
    assert "apt-get install" in answer.stderr


def test_full_names_the_packages_that_are_missing(tmp_path: Path) -> None:
    """A `--full` that skipped tests silently would look like one that passed."""
    answer = run("/bin/bash", "scripts/test", "--full", environment=environment_without_python(tmp_path))
    if "missing" not in answer.stderr:
        pytest.fail(f"no word of missing packages: {answer.stderr}")
    assert "apt-get install" in answer.stderr
    assert answer.returncode == 1


def test_an_unknown_proof_is_wrong_usage() -> None:
    answer = run("scripts/prove", "no-such-proof")
    assert answer.returncode == 2
    assert "--list" in answer.stderr


def test_every_proof_has_its_line_in_the_document() -> None:
    """A proof that nobody ran would stand there like one that held."""
    documented = (ROOT / "docs" / "proofs.md").read_text()
    for name in run("scripts/prove", "--list").stdout.split():
        assert f"`{name}`" in documented


LOCK_LINE = re.compile(r"([A-Za-z0-9._-]+)==[0-9][A-Za-z0-9.+!_-]*( ; python_version [^;]+)?")


def test_the_lock_pins_every_package_it_names() -> None:
    lines = [line for line in (ROOT / "requirements" / "dev.lock").read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert LOCK_LINE.fullmatch(line), line


def test_the_lock_has_every_direct_dependency() -> None:
    """A dependency added without `scripts/lock` floats: the tests of today would not be those of tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    locked = {match[1] for match in LOCK_LINE.finditer((ROOT / "requirements" / "dev.lock").read_text())}
    names = {re.split(r"[\[<>=!~ ]", text)[0] for text in wanted} - {"ostiary"}
    assert {normal(name) for name in names} <= {normal(name) for name in locked}


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


# --- the image ------------------------------------------------------------------------------------------------------


def dockerfile_stages() -> list[list[list[str]]]:
    """The instructions of each stage, as words."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    stages: list[list[list[str]]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        if words[0] == "FROM":
            stages.append([])
        stages[-1].append(words)
    return stages


def test_the_image_copies_only_what_exists_and_is_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for stage in dockerfile_stages():
        for words in stage:
            if words[0] != "COPY" or words[1].startswith("--from="):
                continue
            for source in words[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored, f"{source} is kept out by .dockerignore"


def test_the_image_runs_as_an_ordinary_user_and_checks_its_health() -> None:
    """A gateway is the part of a system that strangers talk to; as root, a flaw in it is the whole node's."""
    build, final = dockerfile_stages()
    user = [words[1] for words in final if words[0] == "USER"]
    assert user == ["10001:10001"]
    assert any(words[0] == "HEALTHCHECK" for words in final)
    assert not any("pip" in word or "apt-get" in word for words in final for word in words), "tools in the final stage"
    assert any("pip" in word for words in build for word in words)


# --- the wheel ------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_wheel_has_scripts_and_examples_and_runs_where_it_is_installed(tmp_path: Path) -> None:
    """Installed from PyPI, a gateway without its Lua scripts would fail at its first limit."""
    built = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("ostiary-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("lua", "config"):
        for file in (ROOT / folder).iterdir():
            assert f"ostiary/{folder}/{file.name}" in names
    for file in (ROOT / "ostiary" / "control_plane" / "db" / "migrations").iterdir():
        assert f"ostiary/control_plane/db/migrations/{file.name}" in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)

    venv = tmp_path / "venv"
    assert run(sys.executable, "-m", "venv", str(venv)).returncode == 0
    lock = str(ROOT / "requirements" / "dev.lock")
    pip = (str(venv / "bin" / "pip"), "install", "--quiet", "--no-compile", "--constraint", lock)
    installed = run(*pip, str(wheel), cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    ostiary = str(venv / "bin" / "ostiary")
    assert "demo" in run(ostiary, "--help", cwd=tmp_path).stdout
    script = "from ostiary.core.resources import resource_directory as d; print(d('lua')); print(d('config'))"
    lua, config = run(str(venv / "bin" / "python"), "-c", script, cwd=tmp_path).stdout.split()
    assert Path(lua).is_relative_to(venv)
    checked = run(
        ostiary, "config", "check", f"{config}/minimal.yaml", environment={"KEY_SECRET": "k" * 32}, cwd=tmp_path
    )
    assert checked.returncode == 0, checked.stderr
    assert "ostiary[demo]" in run(ostiary, "demo", cwd=tmp_path).stderr, "the demo says what it needs"


# --- imports --------------------------------------------------------------------------------------------------------


def test_core_does_no_io_and_the_planes_do_not_know_each_other() -> None:
    """One import across, made in a hurry, and neither plane can be deployed, tested or understood without the other."""
    contracts = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert contracts.returncode == 0, contracts.stdout
    assert "2 kept, 0 broken" in contracts.stdout


# --- documents ------------------------------------------------------------------------------------------------------


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_invariant_of_the_architecture_names_a_test_that_exists() -> None:
    """A guarantee whose test was renamed away is a wish."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    invariants = text.partition("## Invariants")[2].partition("\n## ")[0]
    rows = [line for line in invariants.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) >= 9
    for row in rows:
        named = TEST_NAME.findall(row)
        assert named, f"no test in: {row}"
        for file, test in named:
            assert re.search(rf"def {test}\b", (ROOT / file).read_text()), f"{file} has no {test}"


def test_every_folder_that_the_architecture_maps_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for folder in re.findall(r"^\| `([\w/.]+/)` \|", text, flags=re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_every_package_is_on_the_map_of_the_architecture() -> None:
    """Whoever looks for the place of something would not find what was added since."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    mapped = set(re.findall(r"^\| `([\w/.]+)/` \|", text, flags=re.MULTILINE))
    packages = {file.parent.relative_to(ROOT).as_posix() for file in (ROOT / "ostiary").rglob("*/__init__.py")}
    assert "ostiary/gateway/usage/stream" in packages
    assert packages - mapped - {"ostiary"} == set()


def test_the_readme_leads_to_every_page_of_the_documentation() -> None:
    """A page that nothing leads to is not read."""
    linked = set(LINK.findall((ROOT / "README.md").read_text()))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} - linked == set()


def test_commands_that_the_readme_shows_exist() -> None:
    """The first command a newcomer pastes must not be one that was renamed."""
    from ostiary.cli.main import COMMANDS

    text = (ROOT / "README.md").read_text()
    blocks = "\n".join(re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL))
    for line in blocks.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if "'" not in line and '"' not in line else line.split()
        for index, word in enumerate(words[:-1]):
            if word == "ostiary" or word.endswith("/ostiary"):
                assert words[index + 1] in COMMANDS or words[index + 1].startswith("-"), line
        if words and words[0].startswith(("./scripts/", "scripts/")):
            assert (ROOT / words[0]).exists(), line
