"""The section `keys`: keys without a control plane."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Final

from ostiary.core.config.fields import Kind, ListOf, Placed, Record, Schema, Values, defaulted, optional, required
from ostiary.core.config.kinds import Choice, Integer, NameUse, NetworkKind, Secret, TextKind, or_reference, read_text
from ostiary.core.config.plans import (
    CONCURRENCY_MAX,
    OVERAGE_SAYS,
    QUOTA,
    QUOTAS_MAX,
    RATE,
    WINDOW,
    WINDOWS_MAX,
    problems_of_twins,
)
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.config.routes import SCOPE
from ostiary.core.limiting import LimitOutOfRange
from ostiary.core.model import Environment, Key, LimitMode, LimitOverride, Overage
from ostiary.core.overrides import check_exact

_ENVIRONMENT_IN_ID = re.compile(r"(?:[a-z0-9]{1,12}_)?ak_(live|test)_")


class Instant(Kind[float]):
    """A date and time with its offset, RFC 3339; the value is Unix seconds."""

    _FORM: Final = r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?(?:[Zz]|[+-]\d{2}:\d{2})"

    def read(self, place: Place, reading: Reading) -> float | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        try:
            if re.fullmatch(self._FORM, text.value, re.ASCII):
                return datetime.fromisoformat(text.value.upper()).timestamp()
        except (ValueError, OverflowError):
            pass
        return reading.problem(place, f"must be {self.words}, not {place.shown}")

    def schema(self) -> Schema:
        return or_reference({"type": "string", "pattern": f"^{self._FORM}$"})

    @property
    def words(self) -> str:
        return "a time such as `2027-01-31T00:00:00Z`"


_ID = required(
    "id", TextKind(r"[A-Za-z0-9_]{4,64}", "4 to 64 letters, digits and `_`"), "What a caller names itself by."
)
_SECRET = required("secret", Secret(32, 256), "What only the caller knows.")
_PLAN = optional("plan", NameUse("plan"), "What it may use; without one, only the limits of routes hold.")
_SCOPES = defaulted("scopes", ListOf(SCOPE, high=256), "What it may do.", [])
_ENVIRONMENT = required("environment", Choice(Environment), "Which upstreams it reaches.")
_ALLOWED_IPS = defaulted(
    "allowed_ips", ListOf(NetworkKind(), high=256), "Where it may call from; anywhere if empty.", []
)
_ALLOWED_ORIGINS = defaulted(
    "allowed_origins",
    ListOf(TextKind(r"https?://[a-z0-9.-]+(?::[0-9]{1,5})?", "an origin such as `https://app.example.com`"), high=256),
    "Web pages it may be used from, by their Origin; any if empty.",
    [],
)
_EXPIRES_AT = optional("expires_at", Instant(), "When it ends.")
_RATE = optional("rate", RATE, "A token bucket.")
_WINDOWS = optional("limits", ListOf(WINDOW, high=WINDOWS_MAX), "Sliding windows; an empty list takes the plan's away.")
_QUOTAS = optional("quotas", ListOf(QUOTA, high=QUOTAS_MAX), "Quotas; an empty list takes the plan's away.")
_CONCURRENCY = optional("concurrency", Integer(1, CONCURRENCY_MAX), "Most calls under way at once.")
_CONCURRENCY_MODE = optional(
    "concurrency_mode",
    Choice(LimitMode),
    "Whether that bound refuses, or only tells what it would have; `enforce` with one.",
)
_OVERAGE = optional("overage", Choice(Overage), OVERAGE_SAYS)


_PARTS: Final = (_RATE, _WINDOWS, _QUOTAS, _CONCURRENCY, _CONCURRENCY_MODE, _OVERAGE)


def _override(values: Values) -> LimitOverride | Refused:
    problems_of_twins(values, _WINDOWS, _QUOTAS)
    if not any(values.given(field) for field in _PARTS):
        return values.reading.problem(values.place, "replaces no part of the plan", "give one, or remove `limits`")
    override = LimitOverride(
        rate=values[_RATE],
        windows=values[_WINDOWS],
        quotas=values[_QUOTAS],
        concurrency=values[_CONCURRENCY],
        overage=values[_OVERAGE],
        concurrency_mode=values[_CONCURRENCY_MODE],
    )
    try:
        check_exact(override)
    except LimitOutOfRange as error:
        return values.reading.problem(values.place, str(error), "make the numbers smaller or rounder")
    return override


OVERRIDE: Record[LimitOverride] = Record(
    "Key limits",
    "What holds for this key in place of its plan's. What is not given is as the plan has it. All of it counts this key by "
    "itself, whatever the plan counts by.",
    _PARTS,
    _override,
)
_SECRET_BEFORE = required("secret", Secret(32, 256), "What the caller has used so far.")
_ENDS_AT = required("ends_at", Instant(), "When it ends; no later than the key.")


@dataclass(frozen=True, slots=True, repr=False)
class SecretBefore:
    """`ends_at` is Unix seconds."""

    secret: bytes
    ends_at: float


SECRET_BEFORE: Record[SecretBefore] = Record(
    "Previous secret",
    "The secret before this one, and until when it works: time for the caller to change over.",
    (_SECRET_BEFORE, _ENDS_AT),
    lambda values: SecretBefore(values[_SECRET_BEFORE].encode("ascii"), values[_ENDS_AT]),
)
_PREVIOUS = optional("previous", SECRET_BEFORE, "The secret before this one, while both work.")
_LIMITS = optional("limits", OVERRIDE, "What holds in place of the plan's, part by part.")


def _key(values: Values) -> Key:
    named = _ENVIRONMENT_IN_ID.match(values[_ID])
    if named is not None and named[1] != values[_ENVIRONMENT].value:
        values.problem(
            _ENVIRONMENT, f"is {values[_ENVIRONMENT].value}, but the id says {named[1]}", "change one of them"
        )
    if values[_PLAN] is None and not values.given(_PLAN) and values[_LIMITS] is None:
        values.reading.warn(values.place, "the key has no plan: only the limits of routes hold", "add plan")
    secret = values[_SECRET].encode("ascii")
    key = Key(
        id=values[_ID],
        environment=values[_ENVIRONMENT],
        secret_sha256=sha256(secret).digest(),
        secret=secret,
        plan=values[_PLAN],
        scopes=frozenset(values[_SCOPES]),
        allowed_networks=values[_ALLOWED_IPS],
        allowed_origins=frozenset(values[_ALLOWED_ORIGINS]),
        expires_at=values[_EXPIRES_AT],
        limits=values[_LIMITS],
    )
    before = values[_PREVIOUS]
    return key if before is None else _with_previous(key, before, values)


def _with_previous(key: Key, before: SecretBefore, values: Values) -> Key:
    if before.secret == key.secret:
        values.problem(_PREVIOUS, "is the secret that the key has", "give the one before, or remove `previous`")
    ends_at = before.ends_at if key.expires_at is None else min(before.ends_at, key.expires_at)
    previous = replace(
        key, secret=before.secret, secret_sha256=sha256(before.secret).digest(), expires_at=ends_at, generation=1
    )
    return replace(key, generation=2, previous=previous)


KEY: Record[Key] = Record(
    "Key",
    "A key that the gateway knows without a control plane.",
    (_ID, _SECRET, _PREVIOUS, _PLAN, _SCOPES, _ENVIRONMENT, _ALLOWED_IPS, _ALLOWED_ORIGINS, _EXPIRES_AT, _LIMITS),
    _key,
)
KEYS = ListOf(Placed(KEY), high=100_000)
