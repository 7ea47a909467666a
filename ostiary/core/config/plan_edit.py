"""A published document with one plan added, replaced or taken away, and every other letter as it was: comments, order,
references, spelling.

Where things stand is known from the parser's events. Not every way of writing YAML can be edited so (an alias in the place of
`plans`, say), and whoever edits text may be wrong: what comes out is to be checked against `expected`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import yaml

from ostiary.core.config.document import Resolved, Scalar, resolve

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What the first plan is put into where nothing has been published yet.
EMPTY: Final = "version: 1\nroutes: []\n"

Plan = Mapping[str, object]


class CannotEdit(Exception):
    """The document is written in a way that this can't change in place."""


class _Style(Enum):
    SCALAR = "scalar"
    FLOW = "flow"  # in brackets
    BLOCK = "block"  # by indentation
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class _Span:
    """From where to where a node stands in the text, in characters; `column` from 0. `entries` are those of a mapping: the
    place of each key, its text, its value."""

    begin: int
    end: int
    column: int
    style: _Style
    is_mapping: bool = False
    entries: tuple[tuple[_Span, str, _Span], ...] = ()

    def value(self, name: str) -> _Span | None:
        return next((value for _, text, value in self.entries if text == name), None)


def with_plan(text: str, name: str, plan: Plan | None) -> str:
    """`text` with this plan under this name; without it if `plan` is None. Raises CannotEdit. `text` is a document that is
    valid."""
    text = text.removeprefix("\ufeff")
    root = _root(text)
    plans = root.value("plans")
    if plan is None:
        if plans is None or plans.value(name) is None:
            raise CannotEdit
        return _without(text, plans, name)
    if plans is None:
        return _with_section(text, root, name, plan)
    if not plans.is_mapping:
        raise CannotEdit
    if not plans.entries:
        if root.style is _Style.FLOW:
            return _replaced(text, plans, _flow({name: plan}, as_json=True))
        return _replaced(text, plans, "\n" + " " * (root.column + 2) + _entry(name, plan, root.column + 2))
    as_json = root.style is _Style.FLOW
    known = plans.value(name)
    if known is not None:
        return _with_value(text, known, plan, as_json=as_json)
    if plans.style is _Style.FLOW:
        return text[: plans.begin + 1] + _flow({name: plan}, as_json=as_json)[1:-1] + ", " + text[plans.begin + 1 :]
    end = _line_end(text, plans.entries[-1][2].end)
    return f"{text[:end]}\n{' ' * plans.column}{_entry(name, plan, plans.column)}{text[end:]}"


def expected(normal_form: object, name: str, plan: Plan | None) -> object:
    """What the normal form of a document must be once it was edited; see `core.config.composition.CheckedDocument`."""
    if not isinstance(normal_form, dict):
        raise CannotEdit
    plans = {other: each for other, each in (normal_form.get("plans") or {}).items() if other != name}
    return {**normal_form, "plans": plans if plan is None else {**plans, name: dict(plan)}}


def same(normal_form: object, other: object) -> bool:
    """Whether both say the same; no plans are said by leaving the section out, too."""
    return isinstance(normal_form, dict) and normal_form | {"plans": normal_form.get("plans") or {}} == other


def refers(normal_form: object) -> bool:
    """Whether a part of a normal form has a `${NAME}` that each host completes: what it stands for here may be another
    thing there."""
    return "${" in json.dumps(normal_form)


# --- where things stand ---------------------------------------------------------------------------------------------------


def _root(text: str) -> _Span:
    events: Iterator[Any] = iter(yaml.parse(text, Loader=_Loader))
    for event in events:
        if isinstance(event, yaml.NodeEvent):
            root = _span(event, events)
            if not root.is_mapping or not root.entries:
                raise CannotEdit
            return root
    raise CannotEdit


def _span(event: Any, events: Iterator[Any]) -> _Span:
    begin, column = event.start_mark.index, event.start_mark.column
    if isinstance(event, yaml.AliasEvent):
        return _Span(begin, _end(event), column, _Style.ALIAS)
    if isinstance(event, yaml.ScalarEvent):
        return _Span(begin, _end(event), column, _Style.SCALAR)
    entries: list[tuple[_Span, str, _Span]] = []
    is_mapping = isinstance(event, yaml.MappingStartEvent)
    end = _end(event)
    for inner in events:
        if isinstance(inner, yaml.CollectionEndEvent):
            # The end of what is written by indentation is where the next thing begins: behind comments that are not its own.
            end = _end(inner) if event.flow_style else end
            break
        item = _span(inner, events)
        if is_mapping:
            value = _span(next(events), events)
            entries.append((item, getattr(inner, "value", ""), value))
            item = value
        end = item.end
    style = _Style.FLOW if event.flow_style else _Style.BLOCK
    return _Span(begin, end, column, style, is_mapping, tuple(entries))


def _end(event: Any) -> int:
    return int(event.end_mark.index)


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found


# --- editing --------------------------------------------------------------------------------------------------------------


def _replaced(text: str, span: _Span, new: str) -> str:
    return text[: span.begin] + new + text[span.end :]


def _with_section(text: str, root: _Span, name: str, plan: Plan) -> str:
    if root.style is _Style.FLOW:
        section = _flow({"plans": {name: plan}}, as_json=True)[1:-1]
        return f"{text[: root.begin + 1]}{section}, {text[root.begin + 1 :]}"
    keys = {key_text: key for key, key_text, _ in root.entries}
    at = keys.get("routes", root.entries[0][0]).begin
    pad = " " * root.column
    return f"{text[:at]}plans:\n{pad}  {_entry(name, plan, root.column + 2)}\n{pad}{text[at:]}"


def _with_value(text: str, value: _Span, plan: Plan, *, as_json: bool) -> str:
    if value.style is _Style.BLOCK:
        lines = [f"{part}: {_flow(each)}" for part, each in plan.items()] or ["{}"]
        return _replaced(text, value, ("\n" + " " * value.column).join(lines))
    return _replaced(text, value, _flow(plan, as_json=as_json))


def _without(text: str, plans: _Span, name: str) -> str:
    if len(plans.entries) == 1:
        return _replaced(text, plans, "{}")
    at = [key_text for _, key_text, _ in plans.entries].index(name)
    key, _, value = plans.entries[at]
    if plans.style is _Style.FLOW:
        if at + 1 < len(plans.entries):
            return text[: key.begin] + text[plans.entries[at + 1][0].begin :]
        return text[: plans.entries[at - 1][2].end] + text[value.end :]
    begin = text.rfind("\n", 0, key.begin) + 1
    if text[begin : key.begin].strip():
        raise CannotEdit
    return text[:begin] + text[min(len(text), _line_end(text, value.end) + 1) :]


def _entry(name: str, plan: Plan, column: int) -> str:
    """A plan as it is written by hand: its name, and each part on a line of its own."""
    pad = "\n" + " " * (column + 2)
    return f"{_name(name)}:" + ("".join(f"{pad}{part}: {_flow(value)}" for part, value in plan.items()) or " {}")


def _flow(value: object, *, as_json: bool = False) -> str:
    """In one line. The values of a plan are words and whole numbers, which need no quotes."""
    if as_json:
        return json.dumps(value)
    match value:
        case Mapping():
            return "{" + ", ".join(f"{_name(name)}: {_flow(each)}" for name, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_flow, value)) + "]"
        case _:
            return str(value)


def _name(name: str) -> str:
    """A plan may be called 2030, or null: unquoted, that would be something else."""
    return name if resolve(Scalar(name, True, 1, 1)) is Resolved.TEXT else f'"{name}"'
