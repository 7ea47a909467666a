"""Versions of resources: `ETag`, `If-None-Match` on reading, `If-Match` on changing (RFC 9110 §8.8.3, §13).

A tag has two halves. The second is of the whole representation: with it `If-None-Match` saves a transfer, and nothing stale
is taken for fresh. The first leaves out what changes by itself (when a key was last used): `If-Match` is compared with it
alone, for a key in use would otherwise never be as it was read, and what a client wants to know is whether somebody has
changed it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence

import pydantic_core
from multidict import CIMultiDictProxy

from ostiary.control_plane.http.auditing import Audited
from ostiary.control_plane.http.fields import Answer, NoParameters
from ostiary.control_plane.http.operations import AnyOperation, Method
from ostiary.control_plane.http.paging import Page
from ostiary.control_plane.http.problems import Problem, ProblemCode

# RFC 9110 §8.8.3 without its obsolete characters beyond ASCII, which no tag of ours has.
_TAG = r'(W/)?"[!#-~]*"'
# What `If-Match` and `If-None-Match` must be, for the OpenAPI document too: any version there is, or one of a list of tags.
ANY = "*"
PATTERN = rf"^{_TAG}([ \t]*,[ \t]*{_TAG})*$"
# Longer lists are no client's cache of one resource.
LENGTH_MAX = 4096


def has_versions(operation: AnyOperation) -> bool:
    """Whether it reads one resource: not a list, nor a question about figures."""
    one = operation.path_model is not NoParameters and not issubclass(operation.answer, Page)
    return operation.method is Method.GET and one


def subjects(operations: Sequence[AnyOperation]) -> Mapping[str, AnyOperation]:
    """Of each operation that changes a resource which is there, by its id: the one that reads the same resource. That is of
    the same path; or of one that ends with the id of what the audit log is told of, as for `POST /keys/{key_id}/rotate`."""
    reads = {operation.path: operation for operation in operations if has_versions(operation)}
    of_ids = {path.rpartition("/")[2]: operation for path, operation in reads.items() if path.endswith("}")}
    found: dict[str, AnyOperation] = {}
    for operation in operations:
        audited = operation.audited
        if operation.method is Method.GET or not isinstance(audited, Audited):
            continue
        if audited.id_from not in operation.path_model.model_fields:  # it is made by this
            continue
        subject = reads.get(operation.path) or of_ids.get(f"{{{audited.id_from}}}")
        if subject is not None:
            found[operation.id] = subject
    return found


def entity_tag(answer: Answer) -> str:
    """The strong tag of a resource, quotes included."""
    lasting = answer.model_dump(mode="json", exclude=answer.passing)
    return f'"{_digest(lasting)}.{_digest(answer.model_dump(mode="json"))}"'


def require_match(headers: CIMultiDictProxy[str], tag: str) -> None:
    """Raises Problem `precondition_failed` unless the resource whose tag this is is as the client says. Without conditions,
    nothing is asked. `malformed_request` for what is no list of tags."""
    given = _tags(headers, "If-Match")
    if given is not None and ANY not in given and not any(_state(tag) == _state(each) for each in given):
        raise Problem(ProblemCode.PRECONDITION_FAILED)
    unwanted = _tags(headers, "If-None-Match")
    if unwanted is not None and (ANY in unwanted or _weakly_among(tag, unwanted)):
        raise Problem(ProblemCode.PRECONDITION_FAILED, "The resource is as If-None-Match says it must not be.")


def is_known(headers: CIMultiDictProxy[str], tag: str) -> bool:
    """Whether a reader has this representation already: 304 then. Raises as `require_match` does."""
    given = _tags(headers, "If-Match")
    if given is not None and ANY not in given and tag not in given:
        raise Problem(ProblemCode.PRECONDITION_FAILED)
    known = _tags(headers, "If-None-Match")
    return known is not None and (ANY in known or _weakly_among(tag, known))


def are_given(headers: CIMultiDictProxy[str]) -> bool:
    """Raises Problem `malformed_request` for what is no list of tags, also where there is no version to compare with: the
    client is told of the mistake that it can mend first."""
    given, unwanted = _tags(headers, "If-Match"), _tags(headers, "If-None-Match")
    return given is not None or unwanted is not None


def _tags(headers: CIMultiDictProxy[str], name: str) -> Sequence[str] | None:
    if name not in headers:
        return None
    text = ",".join(headers.getall(name)).strip(" \t")
    if text == ANY:
        return (ANY,)
    if len(text) > LENGTH_MAX or re.fullmatch(PATTERN, text) is None:
        raise Problem(ProblemCode.MALFORMED_REQUEST, f"{name} must be `*`, or entity tags in quotes as ETag has them.")
    return [found[0] for found in re.finditer(_TAG, text)]


def _state(tag: str) -> str:
    # A weak tag keeps its `W/` and so equals none of ours: the comparison is the strong one (RFC 9110 §13.1.1).
    return tag.partition(".")[0]


def _weakly_among(tag: str, tags: Sequence[str]) -> bool:
    return any(each.removeprefix("W/") == tag for each in tags)


def _digest(document: Mapping[str, object]) -> str:
    # 96 bits: no two representations of one resource will ever share them by chance, and nobody gains by making them.
    return base64.urlsafe_b64encode(hashlib.sha256(pydantic_core.to_json(document)).digest()[:12]).decode()
