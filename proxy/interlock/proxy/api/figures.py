"""`/v1/metrics`: what a namespace did, day by day."""

from datetime import date, timedelta
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from interlock.governance.v1 import figures_pb2 as pb
from interlock.proxy.api.answer import Answer
from interlock.proxy.api.models import Query
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.visit import Visit
from interlock.proxy.money import usd_of

EPOCH = date(1970, 1, 1)
DayText = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), Field(json_schema_extra={"format": "date"})
]


class DaysQuery(Query):
    """UTC days, both of them included."""

    from_day: DayText
    """The first."""
    to_day: DayText
    """The last."""

    @model_validator(mode="after")
    def _in_order(self) -> "DaysQuery":
        if day_number(self.to_day) < day_number(self.from_day):
            raise PydanticCustomError("days", "to_day is not before from_day")
        return self


class Day(Answer):
    """What was done on a UTC day."""

    day: DayText
    """The day."""
    total_actions: int
    """Calls that were let through, and not given back."""
    blocked_actions: int
    """Calls that were refused."""
    dedup_actions: int
    """Calls that were answered from the record."""
    total_spend_usd: float
    """What they cost."""


async def show_days(visit: Visit) -> list[Day]:
    query = visit.query(DaysQuery)
    asked = pb.ListDaysRequest(first_day=day_number(query.from_day), last_day=day_number(query.to_day))
    return [day_of(of) for of in (await visit.ask(visit.api.figures.ListDays, asked)).days]


OPERATIONS = (
    Operation("GET", "/v1/metrics", show_days, "Show what was done, day by day", answer=list[Day], query=DaysQuery),
)


def day_of(of: pb.DayFigures) -> Day:
    return Day(
        day=(EPOCH + timedelta(days=of.day)).isoformat(),
        total_actions=of.actions,
        blocked_actions=of.blocked,
        dedup_actions=of.replayed,
        total_spend_usd=usd_of(of.spend_micros),
    )


def day_number(text: str) -> int:
    """Days since 1970-01-01. Raises PydanticCustomError for no day of any calendar."""
    try:
        return (date.fromisoformat(text) - EPOCH).days
    except ValueError as error:
        raise PydanticCustomError("days", "Input should be a day: YYYY-MM-DD") from error
