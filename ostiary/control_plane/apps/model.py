"""Changes of apps as they come in."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ostiary.control_plane.accounts.model import Description, RedirectUris, Website
from ostiary.control_plane.http import Name, Request, Rule

Reason = Annotated[
    str,
    Field(min_length=1, max_length=500),
    Rule(r"^[^\u0000-\u001f\u007f-\u009f]+$", "1 to 500 characters, without control characters"),
]


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


def _left_out() -> Any:
    """A field that may be left out, and may not be null: its default is no value, and no one is to read it."""
    return Field(default=None, json_schema_extra=_without_default)


def _one_at_least(schema: dict[str, Any]) -> None:
    schema["minProperties"] = 1


class AppChanges(Request):
    """What is to be another from now on; what is not given stays. `website` null is none."""

    model_config = ConfigDict(json_schema_extra=_one_at_least)

    name: Name = _left_out()
    description: Description = _left_out()
    website: Website | None = _left_out()
    redirect_uris: RedirectUris = _left_out()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("nothing", "give at least one field to change")
        return self

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class Decision(Request):
    """What the platform decides of an app. `reason` is for its people."""

    approval: Literal["approved", "rejected", "suspended"]
    reason: Reason
