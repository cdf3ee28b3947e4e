"""What the REST API answers with: models, of which the OpenAPI document is made, and which handlers fill."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC with milliseconds: `2026-01-31T12:00:00.123Z`."""


ABSENT: Any = None
"""The default of a field that is absent unless it was given."""


class Answer(BaseModel):
    """An answer, or a part of one. What it was not given is absent.

    Lists of words that may grow, like reasons, are text and no Literal: an answer is not refused for a word.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Deleted(Answer):
    """Something is no more."""

    ok: Literal[True]
    """Always true: anything else is an error."""
    deleted: Literal[True]
    """Always true."""

    @classmethod
    def now(cls) -> "Deleted":
        return cls(ok=True, deleted=True)
