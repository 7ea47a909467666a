"""One reading of one file: where we are, what was found wrong so far, and what names stand for.

A reading never stops at a mistake: it notes it and goes on, so that all are told at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as AbstractMapping
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from ostiary.core.config.document import Mapping, Node, Resolved, Scalar, resolve
from ostiary.core.config.problems import (
    NOT_SHOWN,
    PROBLEMS_MAX,
    ConfigurationError,
    Problem,
    looks_secret,
    shown,
    shown_value,
    suggestion,
)

# Long enough for any token or key; a file that is larger is not a secret.
SECRET_FILE_BYTES_MAX: Final = 16 * 1024

# What is shorter is in many a word.
_SECRET_CHARACTERS_MIN: Final = 6
_SECRET_BEGINNING: Final = 16

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")

# A name that stands in the path of a problem as it is; others are escaped, shortened, or masked.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.*-]{1,64}")


@lru_cache(maxsize=1024)  # the same few names stand in every route: a quarter of what a large file takes
def _written(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) and not looks_secret(name) else shown(name)


class Refused(Enum):
    """In place of a value that could not be read; its problem has been noted."""

    REFUSED = "refused"


REFUSED: Final = Refused.REFUSED


class Place(NamedTuple):
    """A node, the path of fields that leads to it, and the last name on that path."""

    node: Node
    path: str
    name: str

    def field(self, name: str, node: Node) -> Place:
        written = _written(name)
        return Place(node, f"{self.path}.{written}" if self.path else written, name)

    def item(self, position: int, node: Node) -> Place:
        return Place(node, f"{self.path}[{position}]", self.name)

    @property
    def shown(self) -> str:
        """What stands here, for a message that it is not what it must be: never a value from the environment."""
        return self._as(shown_value)

    @property
    def shown_name(self) -> str:
        """The same, where it is well formed and names what there is not."""
        return self._as(shown)

    def _as(self, show: Callable[[str], str]) -> str:
        if isinstance(self.node, Scalar):
            return "nothing" if resolve(self.node) is Resolved.NULL else show(self.node.text)
        return "a mapping" if isinstance(self.node, Mapping) else "a list"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a text is from. `file` is its name in problems, `environment` what `${NAME}` may stand for in it, `directory`
    what its files are relative to, None if it may name none. A `published` text names no file outside of its directory.
    With `elsewhere`, it is checked for other hosts: what their environment and files will be, nobody here can know."""

    file: str
    environment: AbstractMapping[str, str]
    directory: Path | None
    published: bool = False
    elsewhere: bool = False


class Text(NamedTuple):
    """A scalar's text; `expanded` when a part of it comes from the environment."""

    value: str
    expanded: bool


@dataclass(frozen=True, slots=True)
class _NameUse:
    space: str
    name: str
    place: Place


class Reading:
    def __init__(self, source: Source, *, published: tuple[Source, frozenset[str]] | None = None) -> None:
        """`published` is where some sections of the file are from instead, and which."""
        self._source = source
        self._published, self._sections = published if published is not None else (source, frozenset[str]())
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._names: dict[str, set[str]] = {}
        self._uses: list[_NameUse] = []
        self._followed: dict[str, None] = {}
        self._secrets: set[str] = set()

    def _source_of(self, place: Place) -> Source:
        return self._published if re.split(r"[.\[]", place.path, maxsplit=1)[0] in self._sections else self._source

    # --- problems and warnings

    def problem(self, place: Place, message: str, mend: str | None = None) -> Refused:
        self._problems.append(self._note(place, message, mend))
        if len(self._problems) >= PROBLEMS_MAX:
            self.refuse_if_problems()
        return REFUSED

    def warn(self, place: Place, message: str, mend: str | None = None) -> None:
        self._warnings.append(self._note(place, message, mend))

    def _note(self, place: Place, message: str, mend: str | None) -> Problem:
        source = self._source_of(place)
        if source.elsewhere and (unknown := _unknown_reference(place.node)) is not None:
            mend = (
                f"what {unknown} is on a gateway is not known here; give it a default of the right form, ${{NAME:-…}}"
            )
        return Problem(source.file, place.node.line, place.node.column, place.path, message, mend)

    def refuse_if_problems(self) -> None:
        """Raises ConfigurationError with every problem so far, in the order of the file."""
        if self._problems:
            problems = sorted(map(self._without_secrets, self._problems), key=lambda p: (p.line, p.column))
            raise ConfigurationError(tuple(problems), followed=tuple(self._followed))

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(str(warning) for warning in sorted(self._warnings, key=lambda p: (p.line, p.column)))

    # --- secrets

    def is_secret(self, text: str) -> None:
        """It stands in a field for secrets, or in the file of one: no problem shows it, wherever else it was typed."""
        if len(text) >= _SECRET_CHARACTERS_MIN:
            self._secrets.add(text)

    def _without_secrets(self, problem: Problem) -> Problem:
        """Messages cut what they quote, so the beginning of a secret is looked for too."""
        for secret in self._secrets:
            for part in {secret, secret[:_SECRET_BEGINNING]} if len(secret) > _SECRET_BEGINNING else {secret}:
                if part in problem.message or part in problem.path or part in (problem.mend or ""):
                    return replace(
                        problem,
                        path=problem.path.partition(part)[0],
                        message=f"something is wrong with this value: {NOT_SHOWN}",
                        mend="it is the same as a secret elsewhere in this file",
                    )
        return problem

    # --- names that other parts of the file refer to

    def define(self, space: str, names: AbstractSequence[str]) -> None:
        self._names.setdefault(space, set()).update(names)

    def use(self, space: str, name: str, place: Place) -> None:
        self._uses.append(_NameUse(space, name, place))

    def check_names(self) -> None:
        """Every name that is used must be defined, wherever in the file."""
        for use in self._uses:
            known = self._names.get(use.space, set())
            if use.name in known:
                continue
            none = f"no {use.space} is defined; add it under {use.space}s"
            mend = suggestion(use.name, sorted(known)) if known else none
            self.problem(use.place, f"there is no {use.space} {use.place.shown_name}", mend)

    def unused(self, space: str) -> set[str]:
        return self._names.get(space, set()) - {use.name for use in self._uses if use.space == space}

    # --- text

    def text(self, place: Place) -> Text | Refused:
        """The text of the scalar at `place`, with `${NAME}` and `${NAME:-default}` put in and `$${` made `${`. What the
        environment holds is text alone: it was put in after parsing, so it adds no fields."""
        if not isinstance(place.node, Scalar):
            return self.problem(place, f"must be one value, not {place.shown}")
        source = place.node.text
        if "${" not in source:
            return Text(source, False)
        origin = self._source_of(place)
        parts: list[str] = []
        end = 0
        expanded = sound = True
        for reference in _REFERENCE.finditer(source):
            parts.append(source[end : reference.start()])
            end = reference.end()
            name, default = reference[1], reference[2]
            if reference[0] == "$${":
                parts.append("${")
            elif name is None:
                self.problem(
                    place, "'${' begins no variable", "write ${NAME} or ${NAME:-default}; for the text itself, $${"
                )
                sound = False
            elif (value := origin.environment.get(name) or default) is not None:
                parts.append(value)
            elif name in origin.environment:
                parts.append("")
            elif origin.elsewhere:
                parts.append(reference[0])
            elif origin.published:
                self.problem(
                    place,
                    f"this gateway has no variable {name} for what is published",
                    "set it and name it under routes.environment of the gateway's own file, or give it a default",
                )
                sound = False
            else:
                self.problem(
                    place,
                    f"the environment variable {name} is not set",
                    f"set it, or give it a default if it is no secret: ${{{name}:-default}}",
                )
                sound = False
        if not sound:
            return REFUSED
        whole = "".join((*parts, source[end:]))
        if not whole.isprintable():
            return self.problem(place, "the environment puts characters here that can't be printed")
        return Text(whole, expanded)

    # --- files

    def is_elsewhere(self, place: Place) -> bool:
        """Whether the files that are named there are on other hosts, so that none can be read."""
        return self._source_of(place).elsewhere

    def path(self, place: Place, name: str) -> Path | Refused:
        """A path as the file means it: relative to the folder of the file."""
        source = self._source_of(place)
        if source.elsewhere:
            return Path(name)
        if source.directory is None:
            return self.problem(
                place,
                "this gateway has no files for what is published",
                "put it into a folder, and name that under routes.files of the gateway's own file",
            )
        if source.published and (Path(name).is_absolute() or ".." in Path(name).parts):
            return self.problem(
                place, "is no path below the folder of published files", "name it relative to that folder"
            )
        return source.directory / name

    def followed_file(self, place: Place, name: str, *, bytes_max: int) -> bytes | Refused:
        """The content of a file whose change is a change of the configuration."""
        path = self.path(place, name)
        if isinstance(path, Refused):
            return path
        what = f"the file {place.shown_name}"
        try:
            self._followed[str(path)] = None
            if not path.is_file():  # a pipe would wait for its writer for ever
                written = isinstance(place.node, Scalar) and "${" not in place.node.text and not looks_secret(name)
                return self.problem(
                    place, f"{what} does not exist", f"it was looked for at {path}" if written else None
                )
            with path.open("rb") as file:
                content = file.read(bytes_max + 1)
        except OSError as error:
            return self.problem(place, f"{what} can't be read: {error.strerror}")
        except ValueError:
            return self.problem(place, f"{what} has a name that no file can have")
        if len(content) > bytes_max:
            return self.problem(place, f"{what} is larger than {bytes_max >> 10} KiB")
        return content

    def secret_file(self, place: Place, name: str) -> str | Refused:
        """The text of a secret's file without one closing newline."""
        path = self.path(place, name)
        if isinstance(path, Refused):
            return path
        what = f"the secret's file, {place.shown_name},"
        try:
            if not path.is_file():  # a pipe would wait for its writer for ever
                return self.problem(place, f"{what} does not exist, or is no file")
            with path.open("rb") as file:
                content = file.read(SECRET_FILE_BYTES_MAX + 1)
            if len(content) > SECRET_FILE_BYTES_MAX:
                return self.problem(place, f"{what} is larger than {SECRET_FILE_BYTES_MAX >> 10} KiB")
            text = content.decode("utf-8").removesuffix("\n").removesuffix("\r")
            self.is_secret(text)
            return text
        except UnicodeDecodeError:
            return self.problem(place, f"{what} is not UTF-8 text")
        except OSError as error:
            return self.problem(place, f"{what} can't be read: {error.strerror}")
        except ValueError:
            return self.problem(place, f"{what} has a name that no file can have")


def _unknown_reference(node: Node) -> str | None:
    """The first `${NAME}` without a default in a value."""
    if isinstance(node, Scalar):
        for reference in _REFERENCE.finditer(node.text):
            if reference[1] is not None and reference[2] is None:
                return reference[0]
    return None
