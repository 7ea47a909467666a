"""What documents are made of: the base of all requests and answers, and the field types that more than one domain has.

One declaration does everything: it refuses a wrong value with a sentence that names the rule, and it stands in the OpenAPI
document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Request(BaseModel):
    """What a client sends. Unknown fields are refused; a number is no string and a string no number."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Parameters(BaseModel):
    """What stands in the path or the query, where everything is text. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """What the API answers with. `passing` is what changes without anybody's changing the resource, as pydantic's `exclude`
    takes it: `If-Match` does not look at it."""

    model_config = ConfigDict(frozen=True, from_attributes=True)
    passing: ClassVar[Any] = None


class NoParameters(Parameters):
    """Nothing."""


class NoBody(Request):
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A text's rule: `pattern` must match all of it (the common subset of Python's and ECMA 262's expressions), and `says`
    tells people so."""

    pattern: str
    says: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern, "description": self.says}

    def _check(self, text: str) -> str:
        # `$` alone would let a line feed follow.
        if re.fullmatch(self.pattern, text) is None:
            raise PydanticCustomError("rule", "{says}", {"says": f"must be {self.says}"})
        return text


_PRINTABLE = r"[^\u0000-\u001f\u007f-\u009f\u2028\u2029]"
_VISIBLE = r"[^\u0000-\u0020\u007f-\u00a0\u2028\u2029]"

Name = Annotated[
    str,
    Field(min_length=1, max_length=200),
    Rule(
        f"^{_VISIBLE}({_PRINTABLE}*{_VISIBLE})?$",
        "1 to 200 characters without control characters, with no space at either end",
    ),
]

Uuid = Annotated[
    str,
    Rule(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", "a UUID in lower case, with hyphens"),
]

KeyId = Annotated[str, Rule(r"^[A-Za-z0-9_]{4,64}$", "a key id: 4 to 64 letters, digits and underscores")]


def _digits(value: object) -> object:
    # Python's int() also takes "1_0", " 10" and digits of other scripts.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}", value) is None:
        raise PydanticCustomError("digits", "must be a whole number")
    return value


Count = Annotated[int, BeforeValidator(_digits)]
