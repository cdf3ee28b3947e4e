"""What the routes of timelines accept."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic_core import PydanticCustomError

from interlock.proxy.api.models import AgentId, Query

MAX_RUN_ID_BYTES = 256


def _run_id(run_id: str) -> str:
    if not run_id.strip() or not run_id.isprintable() or len(run_id.encode()) > MAX_RUN_ID_BYTES:
        raise PydanticCustomError("run_id", f"Input should be 1-{MAX_RUN_ID_BYTES} bytes of printable text")
    return run_id


RunId = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_run_id)]
RUN_ID: TypeAdapter[str] = TypeAdapter(RunId)


class EventBody(BaseModel):
    """An event of a run. Further fields are kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, use_attribute_docstrings=True)

    run_id: RunId
    """The run."""
    type: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    """What kind of event."""
    ts: Annotated[int, Field(ge=0, le=253_402_300_799)] | None = None
    """When it happened, unix seconds; now if left out."""
    status: Annotated[str, StringConstraints(max_length=64)] | None = None
    """How it went."""
    duration_ms: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """How long it took, ms."""
    step: Annotated[str, StringConstraints(max_length=256)] | None = None
    """A step of the run."""
    tool: Annotated[str, StringConstraints(max_length=128)] | None = None
    """A tool's name."""
    req_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    """A request or call that it is about."""
    lease_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    """A lease that it is about: nobody is shown it, only a digest."""
    agent_id: AgentId | None = None
    """The agent it belongs to; left out, that of the key, or nobody."""
    message: Annotated[str, StringConstraints(max_length=2048)] | None = None
    """For people."""
    data: dict[str, Any] | None = None
    """Whatever else there is to say."""


class OffsetQuery(Query):
    """Where in a list."""

    offset: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Leave out so many."""


class RecentEventsQuery(OffsetQuery):
    """Which of the recent events."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    """So many at most."""


class RunEventsQuery(Query):
    """Which events of a run."""

    limit: Annotated[int, Field(ge=1, le=2000)] = 200
    """So many at most."""
    offset: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Leave out so many of the first."""


class RunsQuery(Query):
    """Which runs."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    """So many at most."""
    offset: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Leave out so many of the latest."""
    q: Annotated[str, StringConstraints(max_length=256)] = ""
    """Only runs whose id begins so."""
