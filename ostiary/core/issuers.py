"""Issuers of tokens: whose JWTs are taken (RFC 7519), how their keys are known, and what a token makes of its caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# A claim by its name, or within others by theirs: `("realm_access", "roles")`.
ClaimPath = tuple[str, ...]


class Algorithm(StrEnum):
    """How a token may be signed (RFC 7518 §3, RFC 8037). All are asymmetric: a secret shared with an issuer could be taken
    for its public key, and the other way round (RFC 8725 §2.1)."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    EDDSA = "EdDSA"


@dataclass(frozen=True, slots=True)
class ByClaim:
    """A value that the token says, at `claim`; `otherwise` where it says nothing. Where there must be a value (environment,
    plan), a token that says none is refused if `otherwise` is None."""

    claim: ClaimPath
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class KeysAt:
    """A JWKS document that is fetched: every `refresh_seconds`, and when a token names a key that is not in it, but not
    within `cooldown_seconds` of the last attempt. The last good one is believed for `stale_seconds` while it can't be
    renewed."""

    url: str
    refresh_seconds: float = 600.0
    cooldown_seconds: float = 10.0
    stale_seconds: float = 86_400.0
    ca: str | None = None
    ca_pem: bytes | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[str, ...]:
        return () if self.ca is None else (self.ca,)


@dataclass(frozen=True, slots=True)
class KeysInFile:
    """A JWKS document beside the configuration, as it was when that was read."""

    file: str
    document: bytes = field(repr=False)

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)


@dataclass(frozen=True, slots=True)
class Issuer:
    """`url` is what `iss` must be, character by character; `aud` must have one of `audiences`. `algorithms` are those taken,
    whatever a token says. `plans` are the plans there are, of which a token may name one.

    `environment`, `plan`, `app` and `organization` are fixed or by claim; None for none. `scopes` None reads `scope`, then
    `scp`. `required` are claims and the text that each must be, or have among its items."""

    name: str
    url: str
    audiences: tuple[str, ...]
    keys: KeysAt | KeysInFile
    algorithms: frozenset[Algorithm]
    environment: str | ByClaim
    plan: str | ByClaim | None = None
    app: str | ByClaim | None = None
    organization: str | ByClaim | None = None
    subject: ClaimPath = ("sub",)
    scopes: ClaimPath | None = None
    required: Mapping[ClaimPath, str] = field(default_factory=dict)
    token_types: frozenset[str] = frozenset()
    expiry_required: bool = True
    lifetime_seconds_max: float | None = None
    skew_seconds: float = 30.0
    plans: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SignInIssuer:
    """Whose tokens let users into the control plane. `email` is the claim with their address, which is believed without
    `email_verified` only if `verified_email_required` is false."""

    issuer: Issuer
    email: ClaimPath = ("email",)
    verified_email_required: bool = True
