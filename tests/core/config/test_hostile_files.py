"""Files that are broken, or meant to break the reader: each is refused with its place, quickly, and does nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core.config import ConfigurationError, document, load_file, load_text
from tests.core.config.loading import SECRET, VALID

# Processor time that a refusal may take. Without bounds, each of the files below takes minutes, or all the memory there is.
SECONDS_MAX = 20.0


def refusal(load: Callable[[], object]) -> tuple[int, str]:
    """Line and words of the first problem."""
    began = time.process_time()
    with pytest.raises(ConfigurationError) as refused:
        load()
    assert time.process_time() - began < SECONDS_MAX
    assert 0 < len(refused.value.problems) <= 200
    problem = refused.value.problems[0]
    assert str(problem).startswith(f"{problem.file}:{problem.line}: ")
    return problem.line, problem.message


def refused_text(text: str) -> tuple[int, str]:
    return refusal(lambda: load_text(text, name="gateway.yaml", environment={"SECRET": SECRET}))


def reads(text: str) -> bool:
    """Whether `text` is read to a configuration; what is refused is refused as it should be."""
    try:
        load_text(text, name="gateway.yaml", environment={"A": "a", "SECRET": SECRET})
    except ConfigurationError as error:
        check(error)
        return False
    return True


def check(error: ConfigurationError) -> None:
    for problem in error.problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert "\n" not in str(problem)


def test_invalid_yaml_is_refused_with_its_line() -> None:
    """Row 111: a reload with YAML that does not parse must leave the running configuration alone and say where it broke."""
    line, message = refused_text(VALID.replace("    match: {path", "   match: {path"))
    assert (line, message) == (
        9,
        "not valid YAML: did not find expected '-' indicator, while parsing a block collection",
    )
    assert refused_text(VALID + "\tx: 1\n")[0] == 14
    assert refused_text("version: 1\nroutes: [\n")[1].startswith("not valid YAML")


def test_an_unknown_key_is_refused_with_its_line() -> None:
    """Row 111: a key with a typing error would be passed over, and its setting have its default."""
    assert refused_text(VALID.replace("    upstream:", "    upstraem:"))[0] == 8  # the route that lacks it
    line, message = refused_text(VALID.replace("    auth:", "    timeout: 5s\n    auth:"))
    assert (line, message) == (11, "there is no field 'timeout'")


def test_a_duplicate_key_is_refused_with_both_lines() -> None:
    """Row 111: YAML readers take the last of two, silently: half of what stands in the file would not hold."""
    with pytest.raises(ConfigurationError) as refused:
        load_text(VALID + "plans: {}\n", name="gateway.yaml", environment={})
    (problem,) = refused.value.problems
    assert str(problem) == "gateway.yaml:14: the key 'plans' stands here a second time (the first is in line 2)"


def test_a_yaml_bomb_is_refused_before_it_expands() -> None:
    """Row 111: a few lines of aliases stand for more values than any memory holds ("billion laughs")."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)]
    line, message = refused_text("\n".join(lines))
    assert line == 6
    assert message.startswith("the file has more than 500000 values")


def test_an_alias_inside_its_own_anchor_is_refused() -> None:
    """Row 111: a value that contains itself would be read for ever."""
    assert refused_text("version: &v [1, *v]") == (1, "this alias stands inside its own anchor")
    assert refused_text("version: *v") == (1, "this alias has no anchor before it")


def test_python_tags_are_refused_and_construct_nothing(tmp_path: Path) -> None:
    """Row 111: `!!python/object/apply` runs whatever a file says in readers that are not safe."""
    proof = tmp_path / "it-ran"
    line, message = refused_text(f"version: 1\nroutes: !!python/object/apply:os.mkdir ['{proof}']\n")
    assert (line, message) == (2, "the tag '!!python/object/apply:os.mkdir' is not allowed")
    assert not proof.exists()
    assert refused_text("version: !!int '1'")[1] == "the tag '!!int' is not allowed"
    assert refused_text("version: ! 1")[1] == "the tag '!' is not allowed"


def test_a_file_of_50_mib_is_refused_without_being_read(tmp_path: Path) -> None:
    """Row 111: a log, a dump or an endless device in place of the configuration would fill the memory."""
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.write(b"version: 1\n" * 1000)
        file.truncate(50 << 20)
    began = time.process_time()
    assert refusal(lambda: load_file(large, environment={})) == (1, document.too_large())
    assert time.process_time() - began < 1.0
    assert refusal(lambda: load_file(Path("/dev/zero"), environment={})) == (1, document.too_large())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Row 111: the file may be away for a moment, or its name wrong."""
    missing = tmp_path / "missing.yaml"
    assert refusal(lambda: load_file(missing, environment={})) == (1, "can't be read: No such file or directory")
    assert refusal(lambda: load_file(tmp_path, environment={})) == (1, "can't be read: Is a directory")


def test_every_half_written_file_is_refused_or_is_whole() -> None:
    """Row 111: an editor or a copy that was cut off. Cut anywhere, the file is refused with its place, unless all that is
    missing are list items at its end, which no reader can know of."""
    refused = [end for end in range(len(VALID)) if not reads(VALID[:end])]
    assert set(range(VALID.index("keys:") - 1)) <= set(refused)
    in_the_key = range(VALID.index("- {id"), len(VALID) - 2)
    assert set(in_the_key) <= set(refused)


def test_an_empty_file_and_several_documents_are_refused() -> None:
    """A truncated file is empty; of two documents one would be passed over."""
    assert refused_text("") == (1, "the file is empty")
    assert refused_text("# nothing\n---\n...\n")[1].startswith("must be a mapping")
    assert refused_text(VALID + "---\nversion: 1\n") == (14, "a second document begins here")


def test_merge_keys_and_keys_that_are_no_text_are_refused() -> None:
    """`<<` is no part of YAML 1.2: editors and this reader would see different files."""
    assert refused_text("a: &a {x: 1}\nversion: {<<: *a}\n")[1] == "merge keys (<<) are not read"
    assert refused_text("? [a, b]\n: 1\n")[1] == "a key must be plain text"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"version: 1\nroutes: \xff\xfe\n", 2, "the file is not UTF-8 text"),
        (b"\xff\xfev\x00e\x00", 1, "the file is not UTF-8 text"),
        (b"version: 1\nroutes:\x00 []\n", 2, "the character U+0000 can't stand in a YAML file"),
        (b"version: 1\n\n# \x1b[31m\n", 3, "the character U+001B can't stand in a YAML file"),
    ],
)
def test_what_is_not_text_is_refused_with_its_line(tmp_path: Path, content: bytes, line: int, message: str) -> None:
    """Escape sequences in a file would act on the terminal of whoever reads its problems."""
    path = tmp_path / "gateway.yaml"
    path.write_bytes(content)
    assert refusal(lambda: load_file(path, environment={})) == (line, message)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "{a: " * 500_000,
        "- " * 500_000,
        "{? " * 500_000,
        "[" + "a," * 1_500_000,
        "{" + "a: 1, " * 500_000,
        "a: 1\n" * 500_000,
        "".join(f"k{n}: 1\n" for n in range(250_000)),
        "".join(f"- &a{n} x\n" for n in range(150_000)),
        "- !!x y\n" * 300_000,
        "%YAML 1.1\n" * 200_000,
        "--- a\n" * 300_000,
        'version: "' + "${A" * 800_000 + '"',
        'version: "' + "${A:-}" * 500_000 + '"',
        'version: "' + "$" * 3_000_000 + '{"',
        "version: " + "9" * 3_000_000,
        "routes:\n" + "- {name: a, match: {path: /a}, upstream: b, auth: {schemes: [c]}}\n" * 20_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_no_file_takes_long_to_refuse(text: str) -> None:
    """Whoever may write the file could stop the gateway's reload for hours."""
    refused_text(text)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
def test_both_of_pyyamls_parsers_read_the_same(monkeypatch: pytest.MonkeyPatch, loader: object) -> None:
    """An installation without libyaml would refuse, or read otherwise, what was checked elsewhere."""
    expected = load_text(VALID, name="f", environment={"SECRET": SECRET})
    monkeypatch.setattr(document, "_Loader", loader)
    assert load_text(VALID, name="f", environment={"SECRET": SECRET}) == expected
    for text in ("", "[" * 5000, "a: 1\na: 2", "x: !!python/none 1", "a: *b", "a: &a [*a]", VALID + "---\nb: 1", "\t"):
        refused_text(text)


# Invariant: whatever stands in a file, reading it ends in a configuration or in ConfigurationError with a place.

_PIECES = st.sampled_from(
    [
        *("version: 1\n", "routes:\n", "- ", "  ", "{", "}", "[", "]", ": ", ", ", "\n", "\t", "---\n", "..."),
        *("&a ", "*a", "!!str ", "<<: ", "? ", "|\n", ">-\n", '"', "'", "\\", "%", "#"),
        *("name: ", "match: ", "path: ", "/a/{b}/**", "upstream: ", "auth: ", "schemes: ", "bearer"),
        *("${A}", "${A:-", "$${", "\ufeff", "\x85", "\u2028", "\ud800", "0x1F", "1e400", ".nan", "null"),
    ]
)


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    """An exception that nobody expects would end a reload half-way, or the supervisor."""
    reads(text)


@given(st.lists(_PIECES, max_size=40).map("".join))
@settings(max_examples=500, deadline=None)
def test_any_pile_of_yaml_is_read_or_refused(text: str) -> None:
    """As above, from pieces that look like a configuration."""
    reads(text)


@given(st.integers(0, len(VALID)), st.integers(0, 30), st.lists(_PIECES, max_size=3).map("".join))
@settings(max_examples=500, deadline=None)
def test_any_damage_to_a_valid_file_is_read_or_refused(start: int, length: int, put_in: str) -> None:
    """As above, from a file that was valid: this reaches the checks that only whole files meet."""
    reads(VALID[:start] + put_in + VALID[start + length :])


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """As above, from the disk."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        load_file(path, environment={})
    except ConfigurationError as error:
        check(error)
