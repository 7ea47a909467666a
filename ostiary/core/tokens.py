"""A JSON Web Token as text, and what its claims make of its caller. No signature is verified here (`token_signatures`).

Everything that two readers could read differently is refused before any cryptography (RFC 8725 §2): other forms of base64url,
names that occur twice, a header that must be understood and is not."""

from __future__ import annotations

import json
import math
import re
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NoReturn

from ostiary.core.issuers import ByClaim, ClaimPath, Issuer
from ostiary.core.model import Environment, Key
from ostiary.core.scopes import is_wildcard

# Tokens with the groups of a large directory come to some 6 KB; a head has at most 64 KiB.
TOKEN_BYTES_MAX: Final = 16 * 1024
SUBJECT_CHARACTERS_MAX: Final = 255  # OpenID Connect Core 1.0 §2
SCOPES_MAX: Final = 256
SCOPE_CHARACTERS_MAX: Final = 256
_KID_CHARACTERS_MAX: Final = 256
_CLAIM_CHARACTERS_MAX: Final = 256

_is_base64url: Final = re.compile(rb"[A-Za-z0-9_-]+").fullmatch
_is_scope: Final = re.compile(r"[!#-\[\]-~]+").fullmatch  # RFC 6749 §3.3
_is_text: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?").fullmatch  # what stands in a header as it is


class TokenRefused(Exception):
    """The token is not taken; the text says why, for the log, and holds nothing of the token."""


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """What a token says, none of it to be believed. `kid` is None without one."""

    algorithm: str
    kid: str | None
    type: str | None
    claims: Mapping[str, object]


def parse_token(token: bytes) -> ParsedToken:
    """The compact form of RFC 7515 §7.1. Raises TokenRefused."""
    if len(token) > TOKEN_BYTES_MAX:
        raise TokenRefused(f"longer than {TOKEN_BYTES_MAX} bytes")
    parts = token.split(b".")
    if len(parts) != 3:
        raise TokenRefused("not three parts")
    header, claims = _json_object(parts[0], "header"), _json_object(parts[1], "claims")
    _base64url(parts[2], "signature")
    # Nothing critical is understood (RFC 7515 §4.1.11). `jku`, `x5u`, `jwk` and `x5c` are never looked at: keys are the
    # issuer's, by configuration.
    if "crit" in header or "b64" in header or "zip" in header:
        raise TokenRefused("a header that changes what the token means")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str):
        raise TokenRefused("no alg")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= _KID_CHARACTERS_MAX):
        raise TokenRefused("kid is no text, or too long")
    if kind is not None and not isinstance(kind, str):
        raise TokenRefused("typ is no text")
    return ParsedToken(algorithm, kid, kind, claims)


def _base64url(part: bytes, name: str) -> bytes:
    """The one way to write these bytes: no padding, no other alphabet, no bits beyond the last byte."""
    if _is_base64url(part) is None or len(part) % 4 == 1:
        raise TokenRefused(f"the {name} is not base64url")
    content = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if urlsafe_b64encode(content).rstrip(b"=") != part:
        raise TokenRefused(f"the {name} has another form of base64url")
    return content


def _json_object(part: bytes, name: str) -> dict[str, object]:
    return read_json_object(_base64url(part, name), name)


def read_json_object(content: bytes, name: str) -> dict[str, object]:
    """An object of strict JSON: UTF-8, each name once, no NaN. Raises TokenRefused."""
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
    except TokenRefused:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of thousands of digits, too deep
        raise TokenRefused(f"the {name} is not JSON") from error
    if not isinstance(value, dict):
        raise TokenRefused(f"the {name} is no JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise TokenRefused("a JSON name stands twice")
    return result


def _refuse_constant(_: str) -> NoReturn:
    raise TokenRefused("NaN or Infinity")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise TokenRefused("a number that is too large")
    return value


# --- claims -----------------------------------------------------------------------------------------------------------


def check_claims(issuer: Issuer, token: ParsedToken, now: float) -> None:
    """All that the issuer's configuration asks of a token but its signature. `now` is Unix seconds. Raises TokenRefused."""
    claims = token.claims
    if token.algorithm not in issuer.algorithms:
        raise TokenRefused("alg is not taken")
    if issuer.token_types and (token.type or "").lower().removeprefix("application/") not in issuer.token_types:
        raise TokenRefused("typ is not taken")
    if claims.get("iss") != issuer.url:
        raise TokenRefused("iss is not the issuer")
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if not all(isinstance(each, str) for each in named) or not set(issuer.audiences) & set(named):
        raise TokenRefused("aud names none of ours")
    skew = issuer.skew_seconds
    expiry, issued, begins = (_seconds(claims, name) for name in ("exp", "iat", "nbf"))
    if expiry is None and issuer.expiry_required:
        raise TokenRefused("no exp")
    if expiry is not None and now >= expiry + skew:
        raise TokenRefused("expired")
    if begins is not None and now < begins - skew:
        raise TokenRefused("not valid yet (nbf)")
    if issued is not None and now < issued - skew:
        raise TokenRefused("issued in the future (iat)")
    life = 0.0 if expiry is None else expiry - (now if issued is None else issued)
    if issuer.lifetime_seconds_max is not None and life > issuer.lifetime_seconds_max + skew:
        raise TokenRefused("its life is longer than max_lifetime")
    for path, wanted in issuer.required.items():
        if wanted not in _texts(claim_at(claims, path)):
            raise TokenRefused(f"the claim {shown_path(path)} is not what is required")


def key_of(issuer: Issuer, claims: Mapping[str, object]) -> tuple[Key, str]:
    """The caller that verified claims speak of, as a key without a secret, and its subject. Raises TokenRefused.

    Its id has colons, which no key's has, so it is never taken for one: in limits, usage, logs. It names the subject by a
    hash, for that may be somebody's address."""
    subject = claim_at(claims, issuer.subject)
    if not isinstance(subject, str) or len(subject) > SUBJECT_CHARACTERS_MAX or _is_text(subject) is None:
        raise TokenRefused("the subject is missing, longer than 255 characters, or not plain ASCII")
    named = _value(issuer.environment, claims, "environment", needed=True)
    try:
        environment = Environment(str(named))
    except ValueError as error:
        raise TokenRefused("the environment is neither live nor test") from error
    plan = _value(issuer.plan, claims, "plan", needed=True)
    if plan is not None and plan not in issuer.plans:
        raise TokenRefused("the plan is none of the configuration's")
    return (
        Key(
            id=f"jwt:{environment}:{issuer.name}:{sha256(subject.encode()).hexdigest()[:32]}",
            environment=environment,
            secret_sha256=b"",
            secret=None,
            plan=plan,
            scopes=scopes_of(issuer, claims),
            app_id=_identifier(_value(issuer.app, claims, "app"), "app"),
            organization_id=_identifier(_value(issuer.organization, claims, "organization"), "organization"),
            expires_at=None if (expiry := _seconds(claims, "exp")) is None else expiry + issuer.skew_seconds,
        ),
        subject,
    )


def scopes_of(issuer: Issuer, claims: Mapping[str, object]) -> frozenset[str]:
    """Those of a text with spaces between (RFC 9068 §2.2.3) or of a list. What is no scope is left out, wildcards too."""
    path = issuer.scopes
    said = claim_at(claims, path) if path is not None else claims.get("scope", claims.get("scp"))
    words = said.split(" ") if isinstance(said, str) else said if isinstance(said, list) else []
    if len(words) > SCOPES_MAX:
        raise TokenRefused(f"more than {SCOPES_MAX} scopes")
    return frozenset(
        word
        for word in words
        if isinstance(word, str) and len(word) <= SCOPE_CHARACTERS_MAX and _is_scope(word) and not is_wildcard(word)
    )


def _value(
    source: str | ByClaim | None, claims: Mapping[str, object], name: str, *, needed: bool = False
) -> str | None:
    if not isinstance(source, ByClaim):
        return source
    said = claim_at(claims, source.claim)
    if said is None:
        if source.otherwise is None and needed:
            raise TokenRefused(f"no claim says the {name}")
        return source.otherwise
    if not isinstance(said, str) or len(said) > _CLAIM_CHARACTERS_MAX:
        raise TokenRefused(f"the claim that says the {name} is no text, or too long")
    return said


def _identifier(text: str | None, name: str) -> str | None:
    """Ids of apps and organizations are UUIDs, wherever usage is kept."""
    if text is None:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise TokenRefused(f"the {name} is no UUID") from error


def claim_at(claims: Mapping[str, object], path: ClaimPath) -> object:
    value: object = claims
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _texts(value: object) -> list[str]:
    """What a required claim is compared by: text itself, a number or boolean as JSON writes it, each item of a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool | int | float):
        return [json.dumps(value)]
    if isinstance(value, list):
        return [text for item in value if not isinstance(item, list) for text in _texts(item)]
    return []


def _seconds(claims: Mapping[str, object], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2). Raises TokenRefused for anything else under that name."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53:
        raise TokenRefused(f"{name} is no time")
    return float(value)


def shown_path(path: ClaimPath) -> str:
    return ".".join(path)
