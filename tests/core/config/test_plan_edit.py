"""One plan of a published document changed in place. Invariant: what comes out says the same but for this plan, and every
comment is there still; or it is refused."""

from __future__ import annotations

import json
import re
from difflib import ndiff
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core.config import ConfigurationError
from ostiary.core.config.composition import check_published
from ostiary.core.config.plan_edit import EMPTY, CannotEdit, Plan, expected, same, with_plan
from ostiary.core.config.plans import read_plan

BLOCK = """\
# who may what
version: 1
plans:
  free:   # everyone begins here
    limits: [{requests: 100, per: hour}]
    quotas:
      - {requests: 1000, per: day}   # a day
  # for those who pay
  gold: {limits: [{requests: "${GOLD:-5}", per: minute}]}   # the best

upstreams:
  origin: {targets: [{url: "${ORIGIN:-http://10.0.0.1:9000}"}]}
routes:
  - name: clients   # everything about clients
    match: {path: /clients, methods: [GET, POST]}
    upstream: origin
    auth: {schemes: [bearer]}
"""
FLOW = '{"version": 1, "plans": {"free": {"concurrency": 2}, "gold": {"concurrency": 9}}, "routes": []}'
NEW: Plan = {
    "rate": {"requests": 100, "per": "minute", "burst": 600},
    "limits": [{"requests": 10, "per": "second"}, {"requests": 5, "per": "second", "mode": "shadow"}],
    "quotas": [{"requests": 7, "per": "month"}],
    "overage": "warn",
}
DOCUMENTS = {
    "block": BLOCK,
    "flow": FLOW,
    "none yet": EMPTY,
    "absent in brackets": '{"version": 1, "routes": []}',
    "empty": "version: 1\nplans: {}\nroutes: []\n",
    "empty in brackets": '{"version": 1, "plans": {}, "routes": []}',
    "flow in block": "version: 1\nplans: {free: {concurrency: 2}, gold: {concurrency: 3}}\nroutes: []\n",
    "last": "version: 1\nroutes: []\nplans:\n    free: {concurrency: 2}\n    gold:\n        concurrency: 3",
    "one": "version: 1\nplans:\n  gold:\n    concurrency: 3   # few\nroutes: []\n",
    "with windows lines": "version: 1\r\nplans:\r\n  gold: {concurrency: 3}\r\nroutes: []\r\n",
    "with a mark": "\ufeffversion: 1\nplans:\n  gold: {concurrency: 3}\nroutes: []\n",
}


def said(text: str) -> Any:
    """What a document says, by another reader: all values as they are written."""
    found = yaml.load(text.removeprefix("\ufeff"), Loader=yaml.BaseLoader)  # noqa: S506  makes texts, lists and mappings alone
    return {**found, "plans": found.get("plans") or {}}


def written(value: object) -> Any:
    match value:
        case dict():
            return {name: written(each) for name, each in value.items()}
        case list():
            return [written(each) for each in value]
        case _:
            return str(value)


def lines_touched(before: str, after: str) -> list[str]:
    return [line for line in ndiff(before.splitlines(), after.splitlines()) if line[:1] in "+-"]


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("plan", ["gold", "silver", "null"])
@pytest.mark.parametrize("new", [NEW, {}, {"concurrency": 1}], ids=["whole", "empty", "small"])
def test_a_plan_is_added_replaced_and_taken_away_and_nothing_else_changes(name: str, plan: str, new: Plan) -> None:
    """A change of one plan would change a route on all gateways, or lose the comments that say why it is as it is."""
    text = DOCUMENTS[name]
    before = said(text)
    edited = with_plan(text, plan, new)
    assert said(edited) == {**before, "plans": {**before["plans"], plan: written(new)}}, edited
    again = with_plan(edited, plan, NEW)
    assert said(again) == {**before, "plans": {**before["plans"], plan: written(NEW)}}, again
    gone = with_plan(again, plan, None)
    assert said(gone) == {**before, "plans": {other: each for other, each in before["plans"].items() if other != plan}}
    with pytest.raises(CannotEdit):
        with_plan(gone, plan, None)
    for comment in re.findall(r"#.*", text):
        assert comment in edited


def test_a_change_reads_as_if_it_had_been_written_by_hand() -> None:
    """The next who opens the file would find a line that no one can read."""
    assert lines_touched(BLOCK, with_plan(BLOCK, "silver", NEW)) == [
        "+   silver:",
        "+     rate: {requests: 100, per: minute, burst: 600}",
        "+     limits: [{requests: 10, per: second}, {requests: 5, per: second, mode: shadow}]",
        "+     quotas: [{requests: 7, per: month}]",
        "+     overage: warn",
    ]
    assert [line for line in lines_touched(BLOCK, with_plan(BLOCK, "gold", {"concurrency": 4})) if line[0] == "+"] == [
        "+   gold: {concurrency: 4}   # the best",
    ]
    replaced = with_plan(BLOCK, "free", {"limits": [{"requests": 1, "per": "hour"}], "concurrency": 4})
    assert "  free:   # everyone begins here\n    limits: [{requests: 1, per: hour}]\n    concurrency: 4" in replaced
    assert lines_touched(BLOCK, with_plan(BLOCK, "gold", None)) == [
        '-   gold: {limits: [{requests: "${GOLD:-5}", per: minute}]}   # the best'
    ]
    assert json.loads(with_plan(FLOW, "silver", NEW))["plans"]["silver"] == NEW


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nplans: &all\n  gold: &g {concurrency: 3}\n  silver: *g\nroutes: []\n",
        "version: 1\nplans:\n  gold: &g\n    concurrency: 3\n  silver: *g\nroutes: []\n",
    ],
)
def test_what_others_refer_to_is_not_changed_under_them(text: str) -> None:
    """`silver` would become what `gold` was made, or the document no document any more: `expected` tells."""
    before = check_published(text, name="d").normal_form
    try:
        edited = with_plan(text, "gold", NEW)
        found = check_published(edited, name="d").normal_form
    except (CannotEdit, ConfigurationError):
        return
    assert not same(found, expected(before, "gold", NEW))


def test_an_alias_itself_may_be_replaced() -> None:
    text = "version: 1\nplans:\n  gold: &g {concurrency: 3}\n  silver: *g\nroutes: []\n"
    edited = with_plan(text, "silver", NEW)
    before = check_published(text, name="d").normal_form
    assert same(check_published(edited, name="d").normal_form, expected(before, "silver", NEW))


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
plans = st.fixed_dictionaries(
    {},
    optional={
        "limits": st.lists(
            st.fixed_dictionaries({"requests": st.integers(1, 10**12), "per": st.sampled_from(["second", "day"])}),
            min_size=1, max_size=1,
        ),
        "concurrency": st.integers(1, 10**6),
    },
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, st.none() | plans), max_size=6), st.sampled_from(sorted(DOCUMENTS)))
def test_any_changes_one_after_the_other_leave_what_they_say(changes: list[tuple[str, Plan | None]], name: str) -> None:
    """The tenth change of a document would break what nine of before had left."""
    text = DOCUMENTS[name]
    wanted = said(text)
    for plan, new in changes:
        try:
            text = with_plan(text, plan, new)
        except CannotEdit:
            assert new is None
            continue
        wanted["plans"] = {other: each for other, each in wanted["plans"].items() if other != plan}
        if new is not None:
            wanted["plans"][plan] = written(new)
        assert said(text) == wanted, text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_comes_out_is_a_document_that_says_what_is_expected(name: str) -> None:
    """The proof that is asked for before anything is published would refuse what is right, or take what is wrong."""
    before = check_published(DOCUMENTS[name], name="d").normal_form
    edited = check_published(with_plan(DOCUMENTS[name], "2030", NEW), name="d").normal_form
    assert same(edited, expected(before, "2030", NEW))
    assert not same(edited, expected(before, "2030", {}))
    assert not same(edited, expected(before, "2031", NEW))
    assert not same(edited, before)
    assert read_plan("2030", NEW).concurrency is None
