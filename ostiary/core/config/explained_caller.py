"""Who calls, for `config explain`: what the credential in a request means on a route. It is never shown, and what can't
be told from the file alone (keys of the control plane, signatures) is said to be so."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from hashlib import sha256

from ostiary.core.config import words
from ostiary.core.model import Authentication, Configuration, Key, Route, Scheme
from ostiary.core.tokens import TokenRefused, check_claims, key_of, parse_token

_bearer = re.compile(r"bearer +(.*)", re.IGNORECASE).fullmatch


def caller_facts(configuration: Configuration, route: Route, method: str, headers: Mapping[str, str]) -> dict[str, str]:
    """What holds for callers of the route, and who would call with these headers."""
    authentication = route.authentication
    facts = {"authentication": words.listed(sorted(authentication.schemes))}
    if authentication.issuers:
        named = (f"{name} ({configuration.issuers[name].url})" for name in authentication.issuers)
        facts["tokens of"] = words.listed(named)
    if Scheme.MTLS in authentication.schemes:
        facts["client certificates"] = (
            f"{len(configuration.certificates)} names stand for keys; without one, another scheme"
        )
    facts["scopes"] = _scopes(authentication, method)
    if Scheme.ANONYMOUS not in authentication.schemes:
        facts["caller"] = _caller(configuration, route, method, headers)
    return facts


def _scopes(authentication: Authentication, method: str) -> str:
    named = method if method in authentication.scopes else "*"
    return words.scopes(authentication.scopes.get(named, ()), authentication.any_scopes.get(named, ()))


def _caller(configuration: Configuration, route: Route, method: str, headers: Mapping[str, str]) -> str:
    authorization = _bearer(headers.get("authorization", "").strip())
    presented = headers.get("x-api-key") or ("" if authorization is None else authorization[1])
    if not presented:
        if Scheme.MTLS in route.authentication.schemes:
            return "no credential given: that of the client's certificate, else 401 credentials_missing"
        return "no credential given: 401 credentials_missing"
    if Scheme.JWT in route.authentication.schemes and "x-api-key" not in headers and presented.count(".") == 2:
        return _token(configuration, route, method, presented)
    key = _key(configuration, presented)
    if key is None:
        return "the credential is of no key in this file; the control plane's keys are not looked up here"
    return _admitted(configuration, route, method, key, key.id)


def _token(configuration: Configuration, route: Route, method: str, token: str) -> str:
    """Its signature is not verified: the keys may be anywhere, and explain asks nobody."""
    try:
        parsed = parse_token(token.encode())
        issuers = {
            configuration.issuers[name].url: configuration.issuers[name] for name in route.authentication.issuers
        }
        said = parsed.claims.get("iss")
        issuer = issuers.get(said) if isinstance(said, str) else None
        if issuer is None:
            raise TokenRefused("iss is no issuer of this route")
        check_claims(issuer, parsed, time.time())
        key, subject = key_of(issuer, parsed.claims)
    except TokenRefused as error:
        return f"a token: 401 credentials_invalid, {error}"
    who = f"a token of {issuer.name} for {subject}, counted as {key.id}, if its signature verifies"
    return _admitted(configuration, route, method, key, who)


def _admitted(configuration: Configuration, route: Route, method: str, key: Key, who: str) -> str:
    if key.environment not in route.upstreams:
        return f"{who} ({key.environment}): 403 environment_mismatch"
    if lacking := route.authentication.lacking(key.scopes, method):
        return f"{who}: 403 scope_missing, it lacks {', '.join(lacking)}"
    plan = configuration.plans.get(key.plan) if key.plan else None
    limits = f"plan {plan.name}: {words.plan(plan)}" if plan else "no plan"
    if key.limits is not None:
        limits += f"; with its own limits: {words.plan(key.limits.applied_to(plan))}"
    return f"{who} ({key.environment}), {limits}"


def _key(configuration: Configuration, presented: str) -> Key | None:
    """By the id of a signed call, else by the secret of a bearer."""
    key_id, colon, _ = presented.partition(":")
    if colon:
        return configuration.keys.get(key_id)
    digest = sha256(presented.encode()).digest()
    keys = configuration.keys.values()
    generations = (each for key in keys for each in (key, key.previous) if each is not None)
    return next((each for each in generations if each.secret_sha256 == digest), None)
