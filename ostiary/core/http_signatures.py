"""Scheme `http-signature`: HTTP Message Signatures (RFC 9421) by `hmac-sha256`, with the secret of the key named by `keyid`.

    Signature-Input: sig1=("@method" "@target-uri" "content-digest");created=1764421200;keyid="ak_…";nonce="…"
    Signature: sig1=:<base64 of HMAC-SHA256 over the signature base>:

Both are read quickly where they look like that, as they do from every client that is known; what looks otherwise is read
by the parser of structured fields, with the same result. There may be signatures for others beside ours; then ours says so
by its tag."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.signature_base import Recipe, Uncoverable, recipe_of
from ostiary.core.signing import NONCE_CHARACTERS, Signer, character_table, key_id_is_well_formed
from ostiary.core.structured_fields import Kind, Malformed, Member, parse_dictionary

LABELS_MAX: Final = 4
OUR_TAG: Final = "ostiary"
"""Says which of several signatures is for the gateway (RFC 9421 §2.3)."""

_FIELD_BYTES_MAX: Final = 4096  # of one with three foreign signatures, each over ten components
# The parameters as they are usually written, in any order: each in its one spelling, and what its value must be anyway.
_usual_parameters: Final = re.compile(
    rb'(?:;created=([1-9][0-9]{0,14})|;expires=([1-9][0-9]{0,14})|;keyid="([A-Za-z0-9_]{4,64})"'
    rb'|;nonce="([A-Za-z0-9._~+/=-]{16,96})"|;(alg)="hmac-sha256"|;(tag)="[ !#-:<-\[\]-~]*")*'
).fullmatch
_MARK_BYTES: Final = 44  # 32 octets in base64

# What `Signature-Input` begins with, up to the parameters, is the same in every call of a client: it is read once. Clients
# choose it, so it is bounded: each takes some 2 KB.
_LEADS_KNOWN_MAX: Final = 1024
_LEAD_BYTES_MAX: Final = 1024
_HMAC_SHA256: Final = b'"hmac-sha256"'

# Wider than that of scheme `hmac`: other people's clients make nonces of base64, and of what they like.
_NONCE: Final = character_table(NONCE_CHARACTERS + b".~+/=")
_NONCE_BYTES_MAX: Final = 96


class SignatureRefused(ValueError):
    """What is wrong with a signature, or with how it is carried, before it is checked. Names nothing that the client sent."""


class Claim:
    """A signature as it is carried: what it says it covers, whose it is, when it was made. Nothing of it is proven.

    `parameters` is their canonical text, `mark` the signature's base64; `created` and `expires` are Unix seconds.
    `other_inputs` and `other_signatures` are what the two fields have of others, as written."""

    __slots__ = (
        "created",
        "expires",
        "key_id",
        "mark",
        "nonce",
        "other_inputs",
        "other_signatures",
        "parameters",
        "recipe",
    )

    def __init__(
        self,
        recipe: Recipe,
        parameters: bytes,
        *,
        key_id: bytes,
        nonce: bytes,
        created: bytes,
        expires: bytes | None,
        mark: bytes,
    ) -> None:
        self.recipe = recipe
        self.parameters = parameters
        self.key_id = key_id.decode("ascii")
        self.nonce = nonce.decode("ascii")
        self.created = int(created)
        self.expires = None if expires is None else int(expires)
        self.mark = mark
        self.other_inputs = b""
        self.other_signatures = b""

    def is_verified_by(self, signer: Signer, base: bytes) -> bool:
        """Whether `mark` is the base64 of the HMAC of `base`: the one spelling that it has, compared in constant time."""
        return signer.verify_base64(base, self.mark)


class Lead:
    """A label and its list of components, as they stand in `Signature-Input`; and what `Signature` then begins with."""

    __slots__ = ("mark_at", "recipe", "signature_begins")

    def __init__(self, label: bytes, recipe: Recipe) -> None:
        self.recipe = recipe
        self.signature_begins = label + b"=:"
        self.mark_at = len(self.signature_begins)


_leads: Final[dict[bytes, Lead]] = {}


def read_claim(signature_input: bytes, signature: bytes) -> Claim:
    """Reads `Signature-Input` and `Signature`, of several lines joined by commas. Raises SignatureRefused."""
    end = signature_input.find(b")") + 1  # of the list; or of nothing that is known, if this one is within a string
    lead = _leads.get(signature_input[:end])
    if lead is not None:
        mark_at = lead.mark_at
        mark_end = mark_at + _MARK_BYTES
        if (
            len(signature) == mark_end + 1
            and signature.startswith(lead.signature_begins)
            and signature[mark_end] == 0x3A
            and (usual := _usual_parameters(signature_input, end)) is not None
            and len(signature_input) <= _FIELD_BYTES_MAX
        ):
            created, expires, key_id, nonce, algorithm, tag = usual.groups()
            named = 3 + (expires is not None) + (algorithm is not None) + (tag is not None)
            # As many as there are, so that none comes twice.
            if created is not None and key_id and nonce and signature_input.count(b";", end) == named:
                return Claim(
                    lead.recipe,
                    signature_input[end:],
                    key_id=key_id,
                    nonce=nonce,
                    created=created,
                    expires=expires,
                    mark=signature[mark_at:mark_end],
                )
    return read_claim_at_length(signature_input, signature)


def read_claim_at_length(signature_input: bytes, signature: bytes) -> Claim:
    """What `read_claim` does, for fields of any form. Raises SignatureRefused."""
    if len(signature_input) > _FIELD_BYTES_MAX or len(signature) > _FIELD_BYTES_MAX:
        raise SignatureRefused("Signature-Input or Signature is too long")
    inputs = _members("Signature-Input", signature_input)
    marks = _members("Signature", signature)
    told = _ours(inputs)
    mark = next((member for member in marks if member.key == told.key), None)
    if mark is None:
        raise SignatureRefused("Signature has no member with the label of Signature-Input")
    if mark.item is None or mark.item.bare.kind is not Kind.OCTETS or mark.item.parameters:
        raise SignatureRefused("Signature is no byte sequence")
    if told.item is not None:
        raise SignatureRefused("Signature-Input is no list of components")
    recipe = _recipe_of(told)
    claim = _claim(told, recipe, mark.item.bare.text[1:-1])
    claim.other_inputs = b", ".join([member.source for member in inputs if member is not told])
    claim.other_signatures = b", ".join([member.source for member in marks if member is not mark])
    return claim


def _claim(told: Member, recipe: Recipe, mark: bytes) -> Claim:
    """What the parameters say, which must be what a claim needs. Raises SignatureRefused."""
    values = {name: value.text for name, value in told.parameters.items()}
    if (algorithm := values.get(b"alg")) is not None and algorithm != _HMAC_SHA256:
        raise SignatureRefused("alg is not hmac-sha256")
    key_id = _string(values, b"keyid")
    if not key_id_is_well_formed(key_id):
        raise SignatureRefused("keyid is missing, or is no key id")
    nonce = _string(values, b"nonce")
    if not 16 <= len(nonce) <= _NONCE_BYTES_MAX or nonce.translate(_NONCE) != nonce:
        raise SignatureRefused("nonce is missing or malformed")
    created, expires = values.get(b"created", b""), values.get(b"expires")
    if not created.isdigit() or (expires is not None and not expires.isdigit()):
        raise SignatureRefused("created is missing, or a time is no integer")
    return Claim(recipe, told.parameters_text, key_id=key_id, nonce=nonce, created=created, expires=expires, mark=mark)


def _string(values: dict[bytes, bytes], name: bytes) -> bytes:
    """A parameter that is a string without escapes (what may stand in an id or a nonce needs none); empty for any other."""
    value = values.get(name, b"")
    return value[1:-1] if value.startswith(b'"') else b""


def _recipe_of(told: Member) -> Recipe:
    """Its recipe, which is remembered if it is spelled canonically."""
    try:
        recipe = recipe_of(told.items)
    except Uncoverable as error:
        raise SignatureRefused(f"Signature-Input: {error}") from error
    lead = told.key + b"=" + recipe.text
    if told.source.startswith(lead) and len(lead) <= _LEAD_BYTES_MAX:
        if len(_leads) >= _LEADS_KNOWN_MAX:
            _leads.clear()  # rare, and cheaper than to remember what was used last
        _leads[lead] = Lead(told.key, recipe)
    return recipe


def _members(field: str, value: bytes) -> list[Member]:
    try:
        members = parse_dictionary(value)
    except Malformed as error:
        raise SignatureRefused(f"{field}: {error}") from error
    if len(members) > LABELS_MAX:
        raise SignatureRefused(f"{field} has more than {LABELS_MAX} labels")
    return members


def _ours(inputs: list[Member]) -> Member:
    """The only one; of several, the only one that has our tag."""
    if len(inputs) != 1:
        tag = f'"{OUR_TAG}"'.encode()
        inputs = [each for each in inputs if (named := each.parameters.get(b"tag")) is not None and named.text == tag]
    if len(inputs) != 1:
        raise SignatureRefused(f'not one signature, nor one of several with tag="{OUR_TAG}"')
    return inputs[0]
