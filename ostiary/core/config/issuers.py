"""The section `issuers`: whose tokens are taken (scheme `jwt`), and what they say of their callers."""

from __future__ import annotations

import uuid
from typing import Final
from urllib.parse import urlsplit

from ostiary.core.config.fields import (
    Kind,
    ListOf,
    MapOf,
    NameOrRecord,
    OneOrMany,
    Placed,
    Record,
    Schema,
    Values,
    defaulted,
    optional,
    required,
)
from ostiary.core.config.kinds import Choice, Duration, Flag, NameUse, TextKind, read_text
from ostiary.core.config.pem import NO_CERTIFICATE, PemFile, certificates
from ostiary.core.config.plans import NAME
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.issuers import Algorithm, ByClaim, ClaimPath, Issuer, KeysAt, KeysInFile, SignInIssuer
from ostiary.core.key_set import KeySetRefused, algorithms_of, parse_key_set
from ostiary.core.model import Environment

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class DocumentUrl(Kind[str]):
    """Where a JWKS document is: `https`, or `http` to this machine itself."""

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        try:
            parts = urlsplit(text.value)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        if not text.value.isascii() or " " in text.value or parts.scheme not in ("https", "http") or not host:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        if parts.username is not None or parts.fragment:
            return reading.problem(place, "a URL of keys has no user and no #", "leave them out")
        return text.value

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^https?://|\$\{"}

    @property
    def words(self) -> str:
        return "a URL such as `https://login.example.com/.well-known/jwks.json`"


def is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in _LOOPBACK


# --- where its keys are -----------------------------------------------------------------------------------------------

_URL = optional("url", DocumentUrl(), "Where the document is fetched. Redirects are not followed.")
_FILE = optional("file", PemFile("a JWKS document, relative to the configuration's folder"), "The document as a file.")
_REFRESH = optional("refresh", Duration("10s", "1d"), "How often it is fetched; `10m` if not given.")
_COOLDOWN = optional(
    "cooldown",
    Duration("1s", "10m"),
    "A token with an unknown key fetches it at once, but not so soon after the last attempt; `10s` if not given.",
)
_STALE_FOR = optional(
    "stale_for",
    Duration("0s", "30d"),
    "How long the last good document is believed while it can't be renewed, over restarts too; `1d` if not given.",
)
_CA = optional("ca", PemFile(), "The authorities of its server, PEM; the system's if not given.")
_INSECURE = defaulted("insecure", Flag(), "`true` takes plain `http` from another machine. For tests alone.", "false")


def _keys(values: Values) -> KeysAt | KeysInFile | Refused:
    url, file, ca = values[_URL], values[_FILE], values[_CA]
    if (url is None) == (file is None):
        return values.reading.problem(values.place, "must have url or file, and not both", "write jwks: https://…")
    if file is not None:
        for field in (_REFRESH, _COOLDOWN, _STALE_FOR, _CA, _INSECURE):
            if values.given(field):
                return values.problem(field, "means nothing for a file, which is read when it changes", "remove it")
        if file.elsewhere:
            return KeysInFile(file.path, b"")
        try:
            if not parse_key_set(file.content).keys:
                return values.problem(_FILE, "has no key that can verify a token")
        except KeySetRefused as error:
            return values.problem(_FILE, f"is no JWKS document: {error}")
        return KeysInFile(file.path, file.content)
    assert url is not None  # noqa: S101  one of the two is given
    if url.startswith("http:") and not is_loopback(url) and not values[_INSECURE]:
        return values.problem(
            _URL, "is plain http: whoever is on the way could give out keys of their own", "write https://"
        )
    if ca is not None and not ca.elsewhere and not certificates(ca):
        return values.problem(_CA, *NO_CERTIFICATE)
    refresh, cooldown, stale = values[_REFRESH], values[_COOLDOWN], values[_STALE_FOR]
    return KeysAt(
        url,
        refresh_seconds=600.0 if refresh is None else refresh,
        cooldown_seconds=10.0 if cooldown is None else cooldown,
        stale_seconds=86_400.0 if stale is None else stale,
        ca=ca and ca.path,
        ca_pem=ca and ca.content,
    )


class PlainUrl(Kind[KeysAt]):
    """The URL alone, with everything else as it is by default."""

    _KIND: Final = DocumentUrl()

    def read(self, place: Place, reading: Reading) -> KeysAt | Refused:
        url = self._KIND.read(place, reading)
        if isinstance(url, Refused):
            return url
        if url.startswith("http:") and not is_loopback(url):
            return reading.problem(
                place, "is plain http: whoever is on the way could give out keys of their own", "write https://"
            )
        return KeysAt(url)

    def schema(self) -> Schema:
        return self._KIND.schema()

    @property
    def words(self) -> str:
        return self._KIND.words


JWKS: Record[KeysAt | KeysInFile] = Record(
    "Jwks",
    "The issuer's public keys (RFC 7517).",
    (_URL, _FILE, _REFRESH, _COOLDOWN, _STALE_FOR, _CA, _INSECURE),
    _keys,
)

# --- what its tokens say ----------------------------------------------------------------------------------------------

_CLAIM_NAME = TextKind(r"[!-~]{1,128}", "the name of a claim, as in `tier` or `https://example.com/tier`")
CLAIM: Kind[ClaimPath] = OneOrMany(_CLAIM_NAME, high=8)


def _by_claim(title: str, says: str, otherwise: Kind[str]) -> Record[ByClaim]:
    claim = required("claim", CLAIM, "The claim; a list for one within others, as in `[realm_access, plan]`.")
    default = optional("default", otherwise, "What holds for tokens without it.")
    return Record(title, says, (claim, default), lambda values: ByClaim(values[claim], values[default]))


class Identifier(Kind[str]):
    """The id of an app or organization."""

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        try:
            return str(uuid.UUID(text.value))
        except ValueError:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")

    def schema(self) -> Schema:
        return {"type": "string"}

    @property
    def words(self) -> str:
        return "a UUID, as the control plane gives them"


_ENVIRONMENT_NAME = Choice(Environment)
_ISSUER_URL = required("issuer", TextKind(r"[!-~]{1,512}", "what `iss` is, a URL mostly"), "`iss`, to the character.")
_AUDIENCE = required(
    "audience",
    OneOrMany(TextKind(r"[!-~]{1,512}", "what `aud` is"), high=32),
    "`aud`, which must name one of these. Without it a token for another service would do here (RFC 8725 §3.9).",
)
_JWKS = required("jwks", NameOrRecord[KeysAt | KeysInFile](PlainUrl(), JWKS), "Its public keys.")
_ALGORITHMS = optional(
    "algorithms",
    ListOf(Choice(Algorithm), low=1, high=len(Algorithm)),
    "How tokens may be signed, whatever they say; `[RS256, PS256, ES256, EdDSA]` if not given.",
)
_SKEW = defaulted("skew", Duration("0s", "5m"), "How far its clock and ours may be apart.", "30s")
_ENVIRONMENT = required(
    "environment",
    NameOrRecord[Environment | ByClaim](
        _ENVIRONMENT_NAME, _by_claim("Environment of a token", "By a claim.", _ENVIRONMENT_NAME)
    ),
    "Which upstreams its callers reach: `live`, `test`, or as a claim says.",
)
_PLAN = optional(
    "plan",
    NameOrRecord[str | ByClaim](
        NameUse("plan"), _by_claim("Plan of a token", "By a claim that names a plan.", NameUse("plan"))
    ),
    "The plan of its callers. Each subject is held to it by itself. Without one, only the limits of routes hold.",
)
_APP = optional(
    "app",
    NameOrRecord[str | ByClaim](Identifier(), _by_claim("App of a token", "By a claim.", Identifier())),
    "The app that its callers' usage is of.",
)
_ORGANIZATION = optional(
    "organization",
    NameOrRecord[str | ByClaim](Identifier(), _by_claim("Organization of a token", "By a claim.", Identifier())),
    "The organization that its callers' usage is of.",
)
_SUBJECT = optional("subject", CLAIM, "The claim that says who calls, `sub` if not given: `X-Ostiary-Subject`.")
_SCOPES = optional("scopes", CLAIM, "The claim with the scopes; `scope`, then `scp`, if not given.")
_REQUIRED = defaulted(
    "required_claims",
    MapOf(_CLAIM_NAME, TextKind(r"[ -~]{1,512}", "text that the claim must be, or have among its items"), high=32),
    "Claims that a token must have.",
    {},
)
_TOKEN_TYPES = defaulted(
    "token_types",
    ListOf(TextKind(r"[a-z0-9.+-]{1,64}", "a type such as `at+jwt` (RFC 9068)", lower=True), high=8),
    "What `typ` must be one of; anything if empty. Keeps ID tokens away from APIs where the issuer makes a difference.",
    [],
)
_REQUIRE_EXPIRY = defaulted("require_expiry", Flag(), "`false` takes tokens that never end.", "true")
_MAX_LIFETIME = optional("max_lifetime", Duration("1m", "365d"), "Longest life of a token, from `iat` to `exp`.")

_DEFAULT_ALGORITHMS: Final = frozenset({Algorithm.RS256, Algorithm.PS256, Algorithm.ES256, Algorithm.EDDSA})


def _issuer(values: Values) -> Issuer | Refused:
    keys = values[_JWKS]
    algorithms = frozenset(values[_ALGORITHMS] or _DEFAULT_ALGORITHMS)
    known = (
        algorithms_of(parse_key_set(keys.document)) if isinstance(keys, KeysInFile) and keys.document else algorithms
    )
    if not algorithms & known:
        return values.problem(_JWKS, "has no key for any of the algorithms", "add the algorithm of its keys")
    if values[_PLAN] is None:
        values.reading.warn(values.place, "its callers have no plan: only the limits of routes hold", "add plan")
    if not values[_REQUIRE_EXPIRY]:
        values.reading.warn(values.place, "a token of this issuer that never ends can't be taken back")
    return Issuer(
        name="",
        url=values[_ISSUER_URL],
        audiences=values[_AUDIENCE],
        keys=keys,
        algorithms=algorithms,
        environment=_text_or_claim(values[_ENVIRONMENT]),
        plan=values[_PLAN],
        app=values[_APP],
        organization=values[_ORGANIZATION],
        subject=("sub",) if (subject := values[_SUBJECT]) is None else subject,
        scopes=values[_SCOPES],
        required={(name,): text for name, text in values[_REQUIRED].items()},
        token_types=frozenset(values[_TOKEN_TYPES]),
        expiry_required=values[_REQUIRE_EXPIRY],
        lifetime_seconds_max=values[_MAX_LIFETIME],
        skew_seconds=values[_SKEW],
    )


def _text_or_claim(value: Environment | ByClaim) -> str | ByClaim:
    return value if isinstance(value, ByClaim) else value.value


ISSUER: Record[Issuer] = Record(
    "Issuer",
    "Whose tokens are taken, and what they say of their callers.",
    (
        *(_ISSUER_URL, _AUDIENCE, _JWKS, _ALGORITHMS, _SKEW, _ENVIRONMENT, _PLAN, _APP, _ORGANIZATION),
        *(_SUBJECT, _SCOPES, _REQUIRED, _TOKEN_TYPES, _REQUIRE_EXPIRY, _MAX_LIFETIME),
    ),
    _issuer,
)
# --- who signs in to the control plane by it --------------------------------------------------------------------------

_EMAIL = optional("email", CLAIM, "The claim with the user's address of e-mail; `email` if not given.")
_VERIFIED_EMAIL = defaulted(
    "require_verified_email",
    Flag(),
    "`false` believes an address without `email_verified`. Only for an issuer whose users can't choose their address.",
    "true",
)


def _sign_in_issuer(values: Values) -> SignInIssuer | Refused:
    keys = values[_JWKS]
    algorithms = frozenset(values[_ALGORITHMS] or _DEFAULT_ALGORITHMS)
    if isinstance(keys, KeysInFile) and not algorithms & algorithms_of(parse_key_set(keys.document)):
        return values.problem(_JWKS, "has no key for any of the algorithms", "add the algorithm of its keys")
    issuer = Issuer(
        name="sign-in",
        url=values[_ISSUER_URL],
        audiences=values[_AUDIENCE],
        keys=keys,
        algorithms=algorithms,
        environment="",
        required={(name,): text for name, text in values[_REQUIRED].items()},
        token_types=frozenset(values[_TOKEN_TYPES]),
        lifetime_seconds_max=values[_MAX_LIFETIME],
        skew_seconds=values[_SKEW],
    )
    email = ("email",) if (claim := values[_EMAIL]) is None else claim
    return SignInIssuer(issuer, email, values[_VERIFIED_EMAIL])


SIGN_IN_ISSUER: Record[SignInIssuer] = Record(
    "Issuer of the control plane",
    "Whose tokens let users in. Who they are is the token's to say; what they may, never.",
    (
        *(_ISSUER_URL, _AUDIENCE, _JWKS, _ALGORITHMS, _SKEW, _EMAIL, _VERIFIED_EMAIL),
        *(_REQUIRED, _TOKEN_TYPES, _MAX_LIFETIME),
    ),
    _sign_in_issuer,
)
ISSUERS = MapOf(NAME, Placed(ISSUER), high=100, defines="issuer")
