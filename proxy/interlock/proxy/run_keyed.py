"""`POST /v1/ai/run` in its keyed mode: what is to be run, read strictly, and put to the engine."""

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from grpc import aio
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from interlock.governance.errors import InterlockError
from interlock.governance.status import error_of
from interlock.governance.v1 import runs_pb2 as pb
from interlock.governance.v1 import runs_pb2_grpc
from interlock.proxy import strict_json
from interlock.proxy.api.errors import InvalidField, InvalidFieldsError
from interlock.proxy.api.leases import LeaseAnswer, acquired_answer
from interlock.proxy.api.locks import Key, Ttl
from interlock.proxy.api.models import AgentId, Body, PriceUsd, ToolName
from interlock.proxy.call import Incoming
from interlock.proxy.large_bodies import LargeBodies
from interlock.proxy.money import exact_or_whole, micros_of
from interlock.proxy.settings import KiB
from interlock.proxy.stages.intercept import RequestFields

if TYPE_CHECKING:  # this type exists in the generated stubs only
    from interlock.governance.v1.runs_pb2_grpc import KeyedRunsAsyncStub

MAX_METADATA_BYTES = 256 * KiB
MAX_ACTIONS = 50
MAX_RUN_ID_BYTES = 256
WITHIN_S = 5.0


class KeyedRunBody(Body):
    """The keyed mode of `POST /v1/ai/run`."""

    key: Key
    """Names the run: the same key is run once."""
    ttl: Ttl | None = None
    """How long the lease is taken for, s."""
    metadata: dict[str, Any] | None = None
    """What is to be done, at most 256 KiB: `actions`, `agent_id`, `run_id`, `dry_run`, and whatever else."""


class ActionBody(Body):
    """One action of a run: a call of a tool."""

    tool: ToolName
    args: dict[str, Any] | None = None
    spend_usd: PriceUsd | None = None


class ActionsMetadata(BaseModel):
    """The metadata of a run with actions, as far as Interlock reads it."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    agent_id: AgentId | None = None
    run_id: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    dry_run: bool = False
    actions: Annotated[list[ActionBody], Field(min_length=1, max_length=MAX_ACTIONS)]


class KeyedRuns:
    """Starts keyed runs."""

    def __init__(self, channel: aio.Channel, bodies: LargeBodies) -> None:
        self._stub: KeyedRunsAsyncStub = runs_pb2_grpc.KeyedRunsStub(channel)
        self._bodies = bodies

    async def started(self, incoming: Incoming) -> LeaseAnswer | None:
        """The lease's answer; None if the body asks for a call of a tool. Errors: InterlockError."""
        body = incoming.body
        # A name may be escaped; and a tool's arguments may hold one like it, which costs a second look at them.
        if b'"key"' not in body and b"\\u" not in body:
            return None
        credential = RequestFields(incoming).credential("")
        asked = await self._bodies.read(body, credential, partial(start_of, body))
        if asked is None:
            return None
        metadata = (("authorization", f"Bearer {credential}"),)
        try:
            response = await self._stub.StartRun(asked, metadata=metadata, timeout=WITHIN_S)
        except aio.AioRpcError as failed:
            raise _placed(error_of(failed)) from failed
        return acquired_answer(asked.key, response)


def start_of(body: bytes) -> pb.StartRunRequest | None:
    """What a body asks for in keyed mode; None if it is in the other, or in neither. Errors: InvalidRequestError."""
    value = strict_json.parse(body, parse_float=exact_or_whole)
    if not isinstance(value, dict) or "key" not in value or "agent_id" in value or "tool" in value:
        return None
    try:
        run = KeyedRunBody.model_validate(value)
    except ValidationError as error:
        raise invalid_run(error, "body") from None
    source = strict_json.member_source(body.decode(), "metadata") if run.metadata is not None else ""
    if len(source.encode()) > MAX_METADATA_BYTES:
        raise InvalidFieldsError([InvalidField("too_long", ("body", "metadata"), "metadata has at most 256 KiB")])
    asked = pb.StartRunRequest(key=run.key, ttl_s=run.ttl, metadata=source.encode())
    if run.metadata is not None and run.metadata.get("actions") not in (None, []):
        _plan(asked, run.metadata, source)
    elif run.metadata is not None:
        _name(asked, run.metadata)
    asked.run_id = asked.run_id or default_run_id(run.key)
    return asked


def default_run_id(key: str) -> str:
    """The key, where it can name a timeline."""
    return key if names_a_timeline(key) else f"run-{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _plan(asked: pb.StartRunRequest, metadata: dict[str, Any], source: str) -> None:
    """Errors: InvalidFieldsError."""
    try:
        planned = ActionsMetadata.model_validate(metadata)
    except ValidationError as error:
        raise invalid_run(error, "body", "metadata") from None
    if planned.run_id and not names_a_timeline(planned.run_id):
        place = ("body", "metadata", "run_id")
        raise InvalidFieldsError([InvalidField("run_id", place, "run_id is 1-256 bytes of printable text")])
    asked.agent_id, asked.run_id, asked.dry_run = planned.agent_id or "", planned.run_id or "", planned.dry_run
    written = strict_json.element_sources(strict_json.member_source(source, "actions"))
    for action, text in zip(planned.actions, written, strict=True):
        args = strict_json.member_source(text, "args") if action.args is not None else "{}"
        spend_micros = micros_of(action.spend_usd) if action.spend_usd else 0
        asked.actions.add(tool=action.tool, args=args.encode(), declared_spend_micros=spend_micros)


def _name(asked: pb.StartRunRequest, metadata: dict[str, Any]) -> None:
    """What a run without actions may say of itself; to its caller, who may do it, the metadata is whatever it is."""
    agent_id, run_id, dry_run = (metadata.get(name) for name in ("agent_id", "run_id", "dry_run"))
    asked.agent_id = agent_id if isinstance(agent_id, str) else ""
    asked.run_id = run_id if isinstance(run_id, str) and names_a_timeline(run_id) else ""
    asked.dry_run = dry_run is True


def names_a_timeline(run_id: str) -> bool:
    """Whether a text can: 1-256 bytes of it, printable."""
    return 1 <= len(run_id.encode()) <= MAX_RUN_ID_BYTES and run_id.isprintable()


def _placed(error: InterlockError) -> InterlockError:
    """The engine names a run's fields as its metadata does."""
    if error.metadata.get("field") == "agent_id":
        error.metadata["field"] = "metadata.agent_id"
    return error


def invalid_run(error: ValidationError, *place: str) -> InvalidFieldsError:
    """Pydantic's findings. Values are left out of them: arguments are nobody's business but the tool's."""
    findings = error.errors(include_url=False, include_context=False, include_input=False)
    return InvalidFieldsError(
        [InvalidField(found["type"], (*place, *found["loc"]), found["msg"]) for found in findings]
    )
