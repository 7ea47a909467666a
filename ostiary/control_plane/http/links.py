"""Links of the OpenAPI document (3.1, "Link Object"): which operations go on with what an answer names, and where in that
answer is the id they ask for. Made from the declarations, so that an operation that is added is linked without a word.

Only answers that name a thing for the first time have links: of what makes it, and of lists. Who has read one thing knows
its id already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ostiary.control_plane.http.auditing import Audited
from ostiary.control_plane.http.fields import Answer
from ostiary.control_plane.http.operations import AnyOperation
from ostiary.control_plane.http.paging import Page
from ostiary.control_plane.http.preconditions import has_versions

_MADE = 201
# What an expression can name of a list is one item in its place.
_FIRST = "/data/0"


def links(operations: Sequence[AnyOperation]) -> Mapping[str, Mapping[str, Any]]:
    """By the id of each operation that makes or lists things: its link objects by name, which is the id of the operation that
    they lead to. Raises ValueError if a list's items have no field for the id by which they are read."""
    of_one = [operation for operation in operations if has_versions(operation) and operation.path.endswith("}")]
    found: dict[str, Mapping[str, Any]] = {}
    for operation in operations:
        named = _made(operation) or _listed(operation, of_one)
        if named is not None:
            found[operation.id] = _to_all(operations, operation, *named)
    return found


def _made(operation: AnyOperation) -> tuple[str, str] | None:
    """The parameter of paths that stands for what is made, and where in the answer its value is."""
    audited = operation.audited
    if operation.status != _MADE or not isinstance(audited, Audited) or audited.made_id is None:
        return None
    return audited.id_from, f"/{audited.made_id}"


def _listed(operation: AnyOperation, of_one: Sequence[AnyOperation]) -> tuple[str, str] | None:
    """As `_made`, of the first item."""
    if not issubclass(operation.answer, Page):
        return None
    item: type[Answer] = get_args(operation.answer.model_fields["data"].annotation)[0]
    read = next((one for one in of_one if issubclass(one.answer, item)), None)  # which may tell more than a list does
    if read is None:
        return None
    parameter = read.path.rpartition("{")[2].removesuffix("}")
    for field in (parameter, parameter.rpartition("_")[2]):  # `key_id` of a key, `id` of an app
        if field in item.model_fields:
            return parameter, f"{_FIRST}/{field}"
    raise ValueError(f"{operation.id}: where in {item.__name__} is the {parameter} that {read.id} asks for?")


def _to_all(
    operations: Sequence[AnyOperation], source: AnyOperation, parameter: str, pointer: str
) -> Mapping[str, Any]:
    """To each operation whose path has the parameter, and besides it only what the path of `source` has too."""
    known = {name: f"$request.path.{name}" for name in source.path_model.model_fields}
    known[parameter] = f"$response.body#{pointer}"
    return {
        target.id: {
            "operationId": target.id,
            "parameters": {name: known[name] for name in target.path_model.model_fields},
        }
        for target in operations
        if parameter in target.path_model.model_fields and target.path_model.model_fields.keys() <= known.keys()
    }
