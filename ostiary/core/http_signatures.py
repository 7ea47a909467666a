"""Scheme `http-signature`: HTTP Message Signatures (RFC 9421) by `hmac-sha256`, with the secret of the key named by `keyid`.

    Signature-Input: sig1=("@method" "@target-uri" "content-digest");created=1764421200;keyid="ak_…";nonce="…"
    Signature: sig1=:<base64 of HMAC-SHA256 over the signature base>:

Both are read in one pass where they look like that, as they do from every client that is known; what looks otherwise is read
by the parser of structured fields, with the same result. There may be signatures for others beside ours; then ours says so
by its tag."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.signature_base import (
    Recipe,
    Uncoverable,
    known_recipe,
    recipe_of,
)
from ostiary.core.signing import NONCE_CHARACTERS, Signer, character_table, key_id_is_well_formed
from ostiary.core.structured_fields import Kind, Malformed, Member, parse_dictionary

LABELS_MAX: Final = 4
OUR_TAG: Final = "ostiary"
"""Says which of several signatures is for the gateway (RFC 9421 §2.3)."""

_FIELD_BYTES_MAX: Final = 4096  # of one with three foreign signatures, each over ten components
_fast_input: Final = re.compile(
    rb'([a-z*][a-z0-9_.*-]*)=(\([^()]*\))((?:;[a-z*][a-z0-9_.*-]*=(?:[1-9][0-9]{0,14}|"[ !#-\[\]-~]*"))*)'
).fullmatch
_parameters: Final = re.compile(rb';([a-z*][a-z0-9_.*-]*)=([1-9][0-9]*|"[^"]*")').findall
_fast_signature: Final = re.compile(rb"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]{43}=):").fullmatch
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

    def __init__(self, recipe: Recipe, parameters: bytes, values: dict[bytes, bytes], mark: bytes) -> None:
        """`values` are the parameters in their canonical spelling, by name. Raises SignatureRefused."""
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


def _string(values: dict[bytes, bytes], name: bytes) -> bytes:
    """A parameter that is a string without escapes (what may stand in an id or a nonce needs none); empty for any other."""
    value = values.get(name, b"")
    return value[1:-1] if value.startswith(b'"') else b""


def read_claim(signature_input: bytes, signature: bytes) -> Claim:
    """Reads `Signature-Input` and `Signature`, of several lines joined by commas. Raises SignatureRefused."""
    told, mark = _fast_input(signature_input), _fast_signature(signature)
    if told is not None and mark is not None and len(signature_input) <= _FIELD_BYTES_MAX:
        label, components, parameters = told.groups()
        if (recipe := known_recipe(components)) is not None:  # under its canonical spelling alone
            pairs = _parameters(parameters)
            values = dict(pairs)
            if len(values) != len(pairs):
                raise SignatureRefused("Signature-Input: a parameter comes twice")
            if mark[1] != label:
                raise SignatureRefused("Signature has no member with the label of Signature-Input")
            return Claim(recipe, parameters, values, mark[2])
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
    try:
        recipe = recipe_of(told.items)
    except Uncoverable as error:
        raise SignatureRefused(f"Signature-Input: {error}") from error
    values = {name: value.text for name, value in told.parameters.items()}
    claim = Claim(recipe, told.parameters_text, values, mark.item.bare.text[1:-1])
    claim.other_inputs = b", ".join([member.source for member in inputs if member is not told])
    claim.other_signatures = b", ".join([member.source for member in marks if member is not mark])
    return claim


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
