"""YAML text to a tree of nodes that know their place. Nothing is constructed: a scalar stays the text that was written.

The tree is built from the parser's events, not by PyYAML's composer, for the events come one by one: the bounds below refuse
a hostile file before it costs anything. What YAML allows and a configuration does not need is refused, each with its place:
duplicate keys, tags (`!!python/object` among them), merge keys, several documents, keys that are not plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NoReturn

import yaml

from ostiary.core.config.problems import PROBLEMS_MAX, ConfigurationError, Problem, shown

# Ten thousand routes are about 2 MiB, and read in two or three seconds. What is larger is no configuration.
BYTES_MAX: Final = 4 << 20
# Nodes after aliases are followed: a "billion laughs" is refused by counting, before anything is expanded.
NODES_MAX: Final = 500_000
# The deepest field there is (`plans.*.limits[].requests`) is 5 deep; beyond 32 a file is an attack on the parser's stack.
DEPTH_MAX: Final = 32

# libyaml is some ten times as fast as PyYAML's own parser, and is in every wheel of PyYAML.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What YAML 1.2 §5.1 calls printable; the rest (NUL, controls, lone surrogates) may not stand in a file.
_UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A text as it was written. `plain` is unquoted, so that it may stand for a number, a boolean or null."""

    text: str
    plain: bool
    line: int
    column: int
    nodes: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    items: tuple[Node, ...]
    line: int
    column: int
    nodes: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    entries: tuple[tuple[Scalar, Node], ...]
    line: int
    column: int
    nodes: int = 1


Node = Scalar | Sequence | Mapping


class Resolved(Enum):
    """What an unquoted scalar stands for under the YAML 1.2 core schema. `NO`, `on`, `12:30` and dates are text there."""

    NULL = "nothing"
    BOOLEAN = "a boolean"
    INTEGER = "a whole number"
    FLOAT = "a number"
    TEXT = "text"


_CORE_SCHEMA = (
    (Resolved.NULL, re.compile(r"(?:null|Null|NULL|~|)")),
    (Resolved.BOOLEAN, re.compile(r"(?:true|True|TRUE|false|False|FALSE)")),
    (Resolved.INTEGER, re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    (Resolved.FLOAT, re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")),
    (Resolved.FLOAT, re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.nan|\.NaN|\.NAN")),
)


def resolve(scalar: Scalar) -> Resolved:
    if scalar.plain:
        for kind, pattern in _CORE_SCHEMA:
            if pattern.fullmatch(scalar.text):
                return kind
    return Resolved.TEXT


def node_of(value: object) -> Node:
    """The node that a value of JSON would be, had it been written: whole numbers, texts, booleans, null, lists, objects."""
    match value:
        case dict():
            entries = tuple((Scalar(str(name), False, 1, 1), node_of(each)) for name, each in value.items())
            return Mapping(entries, 1, 1)
        case list() | tuple():
            return Sequence(tuple(node_of(each) for each in value), 1, 1)
        case None:
            return Scalar("null", True, 1, 1)
        case bool():
            return Scalar(str(value).lower(), True, 1, 1)
        case int():
            return Scalar(str(value), True, 1, 1)
        case _:
            return Scalar(str(value), False, 1, 1)


def parse_document(text: str, *, file: str) -> Node:
    """The one document of `text`. Raises ConfigurationError, whose problems are all that could be told before the file no
    longer made sense."""
    if text.startswith("\ufeff"):  # a byte order mark, as some editors write it
        text = text[1:]
    if len(text) > BYTES_MAX:
        raise ConfigurationError((Problem(file, 1, 1, "", too_large()),))
    if (found := _UNPRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        message = f"the character U+{ord(found[0]):04X} can't stand in a YAML file"
        raise ConfigurationError((Problem(file, line, column, "", message, "save the file as UTF-8 text"),))
    return _Composer(text, file).compose()


def too_large() -> str:
    return f"the file is larger than {BYTES_MAX >> 20} MiB: that is no configuration"


class _Composer:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self._anchors: dict[str, Node | None] = {}  # None while the node is not complete
        self._problems: list[Problem] = []
        self._nodes = 0

    def compose(self) -> Node:
        root: Node | None = None
        try:
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                    self._fatal(event, "a second document begins here", "leave one document, without ---")
                if isinstance(event, yaml.NodeEvent):
                    root = self._node(event, depth=1)
        except yaml.MarkedYAMLError as error:
            self._syntax_error(error)
        except (yaml.YAMLError, UnicodeError, ValueError):  # raised without a place: the text could not be read at all
            self._problems.append(Problem(self._file, 1, 1, "", "the file is not valid YAML"))
        if self._problems:
            raise ConfigurationError(tuple(self._problems))
        if root is None:
            raise ConfigurationError(
                (Problem(self._file, 1, 1, "", "the file is empty", "a smallest file is config/minimal.yaml"),)
            )
        return root

    def _node(self, event: Any, *, depth: int) -> Node:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > DEPTH_MAX:
            self._fatal(event, f"values are nested more than {DEPTH_MAX} deep", None)
        # A plain scalar has an implicit tag; "!" and "!!str" are refused too, for they change what is read.
        if event.tag is not None:
            tag = shown(str(event.tag).replace("tag:yaml.org,2002:", "!!"))
            self._problem(event, f"the tag {tag} is not allowed", "remove it: values have no tags")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(event.value, not event.style, line, column)
            self._count(event, 1)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._count(event, 1)
            items = []
            for item in self._events:
                if isinstance(item, yaml.SequenceEndEvent):
                    break
                items.append(self._node(item, depth=depth + 1))
            node = Sequence(tuple(items), line, column, 1 + sum(item.nodes for item in items))
        else:
            self._count(event, 1)
            node = self._mapping(line, column, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, line: int, column: int, depth: int) -> Mapping:
        entries: list[tuple[Scalar, Node]] = []
        lines: dict[str, int] = {}
        nodes = 1
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._node(event, depth=depth + 1)
            value = self._node(next(self._events), depth=depth + 1)
            nodes += key.nodes + value.nodes
            if not isinstance(key, Scalar):
                self._problem(event, "a key must be plain text", None)
            elif key.text == "<<" and key.plain:
                self._problem(event, "merge keys (<<) are not read", "repeat the fields, or alias the whole value")
            elif key.text in lines:
                first = lines[key.text]
                self._problem(
                    event, f"the key {shown(key.text)} stands here a second time", f"the first is in line {first}"
                )
            else:
                lines[key.text] = key.line
                entries.append((key, value))
        return Mapping(tuple(entries), line, column, nodes)

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            self._fatal(event, "this alias has no anchor before it", None)
        node = self._anchors[event.anchor]
        if node is None:
            self._fatal(event, "this alias stands inside its own anchor", None)
        self._count(event, node.nodes)
        return node

    def _count(self, event: Any, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            self._fatal(event, f"the file has more than {NODES_MAX} values, with what its aliases stand for", None)

    def _problem(self, event: Any, message: str, mend: str | None) -> None:
        mark = event.start_mark
        self._problems.append(Problem(self._file, mark.line + 1, mark.column + 1, "", message, mend))
        if len(self._problems) >= PROBLEMS_MAX:
            raise ConfigurationError(tuple(self._problems))

    def _fatal(self, event: Any, message: str, mend: str | None) -> NoReturn:
        """What follows can't be told: the problems so far, and this one."""
        self._problem(event, message, mend)
        raise ConfigurationError(tuple(self._problems))

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> None:
        """The parser's own words: they are fixed texts, unlike its snippet, which may show a secret."""
        mark = error.problem_mark or error.context_mark
        line, column, index = (1, 1, 0) if mark is None else (mark.line + 1, mark.column + 1, mark.index)
        context = f", {error.context}" if error.context else ""
        mend = "indent with spaces" if self._text[index : index + 1] == "\t" else None
        self._problems.append(
            Problem(
                self._file, line, column, "", f"not valid YAML: {error.problem or 'it ends too soon'}{context}", mend
            )
        )
