"""Limits as they are written in options: `5000/hour`, `100/minute+600`, with their terms behind commas."""

from __future__ import annotations

import re

import click

TERMS = {"shadow": {"mode": "shadow"}, "charged": {"refused": "charged"}}
# A key's own limits are counted exactly; those of a plan may be leased.
PLAN_TERMS = {**TERMS, "leased": {"counting": "leased"}}


def calls(value: str) -> dict[str, object]:
    """`REQUESTS/SPAN`, with its terms behind commas; the API knows which spans there are."""
    return _calls(value, TERMS)


def rate(value: str) -> dict[str, object]:
    """`REQUESTS/SPAN`, with `+BURST` behind it where another burst is meant, then its terms."""
    return _rate(value, TERMS)


def plan_calls(value: str) -> dict[str, object]:
    return _calls(value, PLAN_TERMS)


def plan_rate(value: str) -> dict[str, object]:
    return _rate(value, PLAN_TERMS)


def _calls(value: str, known: dict[str, dict[str, str]]) -> dict[str, object]:
    limit, *terms = value.split(",")
    found = re.fullmatch(r"([0-9]{1,13})/([a-z]+)", limit)
    if found is None or not set(terms) <= known.keys():
        raise click.BadParameter(f"{value!r} is not like 5000/hour or 5000/hour,{','.join(known)}")
    document: dict[str, object] = {"requests": int(found[1]), "per": found[2]}
    for term in terms:
        document |= known[term]
    return document


def _rate(value: str, known: dict[str, dict[str, str]]) -> dict[str, object]:
    bucket, comma, terms = value.partition(",")
    refill, plus, burst = bucket.partition("+")
    if plus and re.fullmatch(r"[0-9]{1,13}", burst) is None:
        raise click.BadParameter(f"{value!r} is not like 100/minute+600")
    return _calls(refill + comma + terms, known) | ({"burst": int(burst)} if plus else {})
