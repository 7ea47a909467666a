"""From an HTTP request to checked values: path, query and body of an operation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from ostiary.control_plane.http import strict_json
from ostiary.control_plane.http.problems import FieldProblem, Problem, ProblemCode, pointer

# Of operations that say nothing else. A key with all its lists full is under 40 KiB.
BODY_BYTES_MAX = 64 * 1024
# A slow sender holds a connection, and no more than this long. 64 KiB take a second on a very poor line.
BODY_SECONDS_MAX = 10.0
# A caller mends a handful of fields at a time; an array of thousands of wrong items would answer megabytes.
PROBLEMS_MAX = 50

# A name of a client's own making that may be repeated: a slip of the pen. What looks otherwise may be a secret in a name's
# place; no token is as short.
_NAME = re.compile(r"[!-~]{1,32}")

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Body:
    """`text` is what was sent, `value` what it means."""

    text: bytes
    value: object


def path_parameters(model: type[ModelT], request: web.Request) -> ModelT:
    """Raises Problem `not_found`: an id that no resource can have is an address where nothing is."""
    try:
        return model.model_validate(dict(request.match_info))
    except ValidationError as error:
        raise Problem(ProblemCode.NOT_FOUND) from error


def query_parameters(model: type[ModelT], request: web.Request) -> ModelT:
    """Raises Problem `invalid_fields`; a parameter given twice is one, because either could be meant."""
    twice = [name for name in model.model_fields if len(request.query.getall(name, ())) > 1]
    if twice:
        raise Problem(
            ProblemCode.INVALID_FIELDS, errors=[FieldProblem(name, "is given more than once") for name in twice]
        )
    try:
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        raise invalid_fields(error) from error


async def read_body(
    request: web.Request, *, bytes_max: int = BODY_BYTES_MAX, seconds: float = BODY_SECONDS_MAX
) -> Body:
    """The JSON body, within its bounds of size and time. Raises Problem."""
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise Problem(ProblemCode.UNSUPPORTED_MEDIA_TYPE)
    # Nothing here unpacks, so that a few bytes can't become gigabytes.
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(ProblemCode.UNSUPPORTED_MEDIA_TYPE)
    if request.content_length is not None and request.content_length > bytes_max:
        raise _too_large(bytes_max)
    if request.headers.get("Expect", "").lower() == "100-continue":
        # Only now that the caller is known and the body is wanted (RFC 9110 §10.1.1).
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        async with asyncio.timeout(seconds):
            text = await request.clone(client_max_size=bytes_max).read()
    except TimeoutError as error:
        raise Problem(ProblemCode.REQUEST_TIMEOUT, headers=[("Connection", "close")]) from error
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(bytes_max) from error
    return Body(text, strict_json.parse(text))


def _too_large(bytes_max: int) -> Problem:
    return Problem(ProblemCode.BODY_TOO_LARGE, f"The body is larger than {bytes_max >> 10} KiB.")


def check_body(model: type[ModelT], body: Body) -> ModelT:
    """Raises Problem `invalid_fields`, listing every field at once."""
    try:
        return model.model_validate_json(body.text)
    except ValidationError as error:
        raise invalid_fields(error, body) from error


def invalid_fields(error: ValidationError, body: Body | None = None) -> Problem:
    """What the model refused, without the values: one of them may be a secret in the wrong place. With `body`, each problem
    also points at its place there."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    problems: list[FieldProblem] = []
    for detail in details[:PROBLEMS_MAX]:
        place, says = detail["loc"], _sentence(detail["type"], detail["msg"])
        if detail["type"] == "extra_forbidden" and not _NAME.fullmatch(str(place[-1])):
            place, says = place[:-1], "has a field that is none of this request; it is not repeated here"
        in_body = None if body is None else pointer(_in_body(place, body.value))
        problems.append(FieldProblem(".".join(str(part) for part in place)[:200], says, pointer=in_body))
    return Problem(ProblemCode.INVALID_FIELDS, errors=problems)


def point_into_body(problem: Problem, model: type[BaseModel]) -> None:
    """Gives what a handler said of fields of the body their pointers."""
    problem.errors = tuple(
        replace(error, pointer=pointer(error.field.split(".")))
        if error.pointer is None and error.field.partition(".")[0] in model.model_fields
        else error
        for error in problem.errors
    )


def _in_body(place: Sequence[str | int], value: object) -> Sequence[str | int]:
    """`place` without what is only the validator's: the name of the one of several choices that it speaks of. A name that
    is missing from an object is the last of a place."""
    path: list[str | int] = []
    for number, part in enumerate(place, start=1):
        if isinstance(value, dict) and isinstance(part, str) and (part in value or number == len(place)):
            path.append(part[:200])  # a name may be the client's own, unknown here
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
    return path


def _sentence(kind: str, message: str) -> str:
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a field of this request"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            return message.replace("Input should", "should", 1)
