"""What a change of issuers and of client certificates means."""

from __future__ import annotations

from ostiary.core.config import words
from ostiary.core.config.edge_difference import Part, Parts
from ostiary.core.issuers import Issuer
from ostiary.core.model import CertificateUse


def issuer_parts(issuer: Issuer) -> Parts:
    required = {".".join(path): text for path, text in issuer.required.items()}
    lifetime = issuer.lifetime_seconds_max
    return {
        "issuer": Part(issuer.url, issuer.url),
        "audience": Part(set(issuer.audiences), words.listed(sorted(issuer.audiences))),
        "jwks": Part(issuer.keys, words.issuer_keys(issuer.keys)),
        "algorithms": Part(issuer.algorithms, words.listed(sorted(issuer.algorithms))),
        "skew": Part(issuer.skew_seconds, words.duration(issuer.skew_seconds)),
        "environment": Part(issuer.environment, words.claim(issuer.environment)),
        "plan": Part(issuer.plan, words.claim(issuer.plan)),
        "app": Part(issuer.app, words.claim(issuer.app)),
        "organization": Part(issuer.organization, words.claim(issuer.organization)),
        "subject": Part(issuer.subject, ".".join(issuer.subject)),
        "scopes": Part(issuer.scopes, "scope, then scp" if issuer.scopes is None else ".".join(issuer.scopes)),
        "required_claims": Part(required, words.listed(f"{name} {text}" for name, text in sorted(required.items()))),
        "token_types": Part(issuer.token_types, words.listed(sorted(issuer.token_types), nothing="any")),
        "require_expiry": Part(issuer.expiry_required, str(issuer.expiry_required).lower()),
        "max_lifetime": Part(lifetime, "no bound" if lifetime is None else words.duration(lifetime)),
    }


def issuer_summary(issuer: Issuer) -> str:
    return f"{issuer.url} for {words.listed(issuer.audiences)}, keys of {words.issuer_keys(issuer.keys)}"


def issuer_meaning(field: str, old: Issuer | None, new: Issuer | None) -> str | None:
    if new is None:
        return "its tokens get 401 credentials_invalid from now on"
    if old is None:
        return None
    if field == "audience" and (lost := sorted(set(old.audiences) - set(new.audiences))):
        return f"tokens for {words.listed(lost)} alone get 401 from now on"
    if field == "algorithms" and (gone := sorted(old.algorithms - new.algorithms)):
        return f"tokens signed by {words.listed(gone)} get 401 from now on"
    if field == "require_expiry" and not new.expiry_required:
        return "OPEN: tokens that never end are taken from now on"
    if field == "required_claims" and not new.required:
        return "OPEN: any token of the issuer for these audiences is taken from now on"
    if field in ("environment", "subject"):
        return "its callers are counted anew from now on"
    return None


def certificate_parts(uses: tuple[CertificateUse, ...]) -> Parts:
    return {"certificates": Part(set(uses), words.listed(map(words.certificate_use, uses)))}


def certificates_meaning(old: tuple[CertificateUse, ...], new: tuple[CertificateUse, ...]) -> str | None:
    if lost := set(old) - set(new):
        count = len(lost)
        return f"{count} name{'s' if count > 1 else ''} of certificates lead{'' if count > 1 else 's'} to no key, or another"
    return None
