"""`POST /v1/ai/run` in its tool mode: a call as JSON, answered with what was decided and what the tool said."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog
from aiohttp import web
from pydantic import ValidationError
from pydantic_core import to_json

from interlock.governance.errors import InterlockError, InternalError, InvalidRequestError
from interlock.governance.tool_urls import is_grpc
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy import strict_json
from interlock.proxy.answering import incoming_of
from interlock.proxy.api.errors import InvalidField, InvalidFieldsError, answer_of
from interlock.proxy.api.leases import LeaseAnswer
from interlock.proxy.api.models import AgentId, Body, PriceUsd, ToolName
from interlock.proxy.call import WHOLE_DEADLINE, Ask, Call, Decision, Draft, Forwarded, Incoming
from interlock.proxy.large_bodies import LargeBodies
from interlock.proxy.money import exact, micros_of
from interlock.proxy.outcomes import STOPPED
from interlock.proxy.pipeline import Pipeline
from interlock.proxy.plain_lane import PlainAgent
from interlock.proxy.problems import MESSAGES, problem_of_lost_answer, problem_of_verdict, standing_fields
from interlock.proxy.request_errors import ToolIsGrpcError
from interlock.proxy.run_keyed import KeyedRuns, invalid_run, names_a_timeline
from interlock.proxy.stages.intercept import RequestFields

log = structlog.get_logger()

PATH = "/v1/ai/run"
TRACE_HEADERS = frozenset({"traceparent", "tracestate", "baggage"})
JSON_CONTENT_TYPE = "application/json"


class RunBody(Body):
    """The tool mode of `POST /v1/ai/run`."""

    agent_id: AgentId
    """Who calls; an agent's key calls as that agent alone."""
    tool: ToolName
    """The tool; the agent's own of that name goes before the global one."""
    args: dict[str, Any] | None = None
    """What the tool is sent as `args`, byte for byte."""
    spend_usd: PriceUsd | None = None
    """What the call will spend, USD. Charged is this, or the policy's price if that is more."""


class RunEntrance:
    """Calls as JSON: the tool is named in the body and always gets a POST of the contract's envelope."""

    def __init__(self, bodies: LargeBodies) -> None:
        self._bodies = bodies

    async def read(self, incoming: Incoming) -> Ask:
        fields = RequestFields(incoming)
        credential, key = fields.credential(""), fields.idempotency_key()
        run, source = await self._bodies.read(incoming.body, credential, partial(_run_of, incoming.body))
        args = run.args or {}
        return Ask(
            tool=run.tool,
            path=PATH,
            content_type=JSON_CONTENT_TYPE,
            arguments=source if run.args is not None else b"{}",
            headers=tuple(field for field in incoming.headers if field[0].lower() in TRACE_HEADERS),
            credential=credential,
            agent_id=run.agent_id,
            idempotency_key=key,
            spend_micros=micros_of(run.spend_usd) if run.spend_usd else 0,
            run_id=_run_id(args.get("run_id")) or fields.run_id(),
            traced_by_argument=True,
            wait_s=WHOLE_DEADLINE,
        )

    def refusal(self, ask: Ask, tool: pb.ToolRoute) -> InterlockError | None:
        if is_grpc(tool.url):
            return ToolIsGrpcError()
        if tool.dedup_mode == pb.DEDUP_MODE_HEADER and not ask.idempotency_key:
            return InvalidRequestError(
                "idempotency_key_required", "this tool wants an Idempotency-Key", field="header.Idempotency-Key"
            )
        return None

    def draft(self, call: Call) -> Draft:
        return envelope(call)


def envelope(call: Call) -> Draft:
    """The contract's body. The arguments are the agent's own bytes: no number in them is read and rewritten."""
    ask, permit = call.ask, call.verdict.permit
    after = {"run_id": ask.run_id} if ask.run_id else {}
    after |= {"call_id": permit.call_id, "idempotency_key": permit.key}
    body = b'{"tool":%b,"args":%b,"agent_id":%b,%b' % (
        _compact(ask.tool),
        ask.arguments,
        _compact(permit.agent_id),
        _compact(after)[1:],
    )
    headers = (*ask.headers, ("Content-Type", JSON_CONTENT_TYPE))
    return Draft("POST", call.tool.url, headers, body)


class WholeAgent:
    """An agent that is answered in one JSON document, when all is over."""

    takes_pieces = False
    begun = False
    gone = False

    async def begin(self, call: Call, head: Forwarded) -> None:
        raise NotImplementedError("this agent only takes the whole")

    async def pass_on(self, piece: bytes) -> None:
        raise NotImplementedError("this agent only takes the whole")


def _run_of(body: bytes) -> tuple[RunBody, bytes]:
    """The body, and the source text of its `args`. Errors: InvalidRequestError."""
    value = strict_json.parse(body, parse_float=exact)
    _check_mode(value)
    try:
        run = RunBody.model_validate(value)
    except ValidationError as error:
        raise invalid_run(error, "body") from None
    return run, strict_json.member_source(body.decode(), "args").encode()


def _check_mode(value: object) -> None:
    """Exactly one mode. Errors: InvalidFieldsError."""
    fields = value if isinstance(value, dict) else {}
    keyed, tool = "key" in fields, "agent_id" in fields or "tool" in fields
    if keyed and tool:
        raise InvalidFieldsError([InvalidField("one_mode", ["body"], "key and agent_id/tool exclude each other")])
    if not tool:
        message = "give agent_id and tool to call a tool, or key to start a run"
        raise InvalidFieldsError([InvalidField("one_mode", ["body"], message)])


def _run_id(value: object) -> str:
    """The `run_id` argument if it can name a timeline."""
    return value if isinstance(value, str) and names_a_timeline(value) else ""


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class RunRoute:
    """The handler: translates between JSON and calls."""

    def __init__(self, pipeline: Pipeline, keyed: KeyedRuns, max_body_bytes: int, bodies: LargeBodies) -> None:
        self._pipeline = pipeline
        self._keyed = keyed
        self._entrance = RunEntrance(bodies)
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[web.RouteDef]:
        return [web.post(PATH, self.handle)]

    async def handle(self, request: web.Request) -> web.Response:
        incoming = await incoming_of(request, self._max_body_bytes)
        if (started := await self._keyed.started(incoming)) is not None:
            return _started(started)
        call = await self._pipeline.carry(Call(self._entrance, WholeAgent(), incoming))
        return _response_to(call)

    async def serve(self, incoming: Incoming, agent: PlainAgent, *, last: Callable[[], bool]) -> None:
        """The same for a plain call. `last` says whether the connection is to end with its answer."""
        try:
            started = await self._keyed.started(incoming)
            response = _started(started) if started is not None else await self._called(incoming)
        except InterlockError as error:
            response = answer_of(error)
        except Exception:
            log.exception("request.failed", method=incoming.method, path=PATH)
            response = answer_of(InternalError("internal", "internal error"))
        response.headers.setdefault("Interlock-Decision", Decision.ERROR.value)
        body = response.body
        assert isinstance(body, bytes)  # noqa: S101 - for the type checker: here all answers are
        await agent.answer(response.status, response.headers.items(), body, last=last())

    async def _called(self, incoming: Incoming) -> web.Response:
        return _response_to(await self._pipeline.carry_on(Call(self._entrance, WholeAgent(), incoming)))


def _started(run: LeaseAnswer) -> web.Response:
    return web.Response(body=to_json(run), content_type=JSON_CONTENT_TYPE)


def _response_to(call: Call) -> web.Response:
    response = _decision_told(call)
    response.headers.extend(standing_fields(call))
    return response


def _decision_told(call: Call) -> web.Response:
    verdict = call.verdict
    if verdict.verdict == pb.VERDICT_IN_FLIGHT:
        return _conflict("in_flight", {}, problem_of_verdict(verdict).retry_after_s)
    if verdict.verdict == pb.VERDICT_MISMATCH:
        reason = verdict.reason
        return answer_of(InvalidRequestError(reason, MESSAGES.get(reason, reason), field="header.Idempotency-Key"))
    if verdict.HasField("quota"):
        return _payment_required(verdict)
    if lost := problem_of_lost_answer(verdict):
        return _conflict(lost.reason, lost.facts, None)
    return web.Response(body=answer_document(call), content_type=JSON_CONTENT_TYPE)


def _conflict(error: str, facts: Mapping[str, object], retry_after_s: int | None) -> web.Response:
    detail = {"error": error, "message": MESSAGES[error], **facts}
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}
    return web.json_response({"detail": detail}, status=409, headers=headers)


def _payment_required(verdict: pb.AuthorizeResponse) -> web.Response:
    """A quota of the namespace's plan, which is no budget of the agent's: the contract has an error for it."""
    told = problem_of_verdict(verdict)
    detail = {"error": "payment_required", "message": told.detail, "policy_reason": told.reason, **told.facts}
    headers = {"Retry-After": str(told.retry_after_s)} if told.retry_after_s is not None else {}
    return web.json_response({"detail": detail}, status=402, headers=headers)


def answer_document(call: Call) -> bytes:
    """The contract's answer; the tool's own JSON stands in it as the tool wrote it."""
    forwarded = call.forwarded
    # Let through, and by a switch not sent after all: as if it had been refused.
    stopped = forwarded.failure in STOPPED and forwarded.outcome == pb.OUTCOME_NOT_SENT
    if call.executed and not stopped:
        body = forwarded.body if forwarded.whole else None
        return _result_answer(call, "ok", forwarded.status, body, forwarded.failure)
    if call.verdict.verdict == pb.VERDICT_REPLAY:
        answer = call.verdict.answer
        return _result_answer(call, call.verdict.reason, answer.status, answer.body, call.verdict.failure)
    return _document(call, ok=False, allowed=False, decision=Decision.BLOCKED, reason=call.reason, result=b"null")


def _result_answer(call: Call, reason: str, status: int, body: bytes | None, failure: str) -> bytes:
    decision = Decision.DEDUP if call.verdict.verdict == pb.VERDICT_REPLAY else Decision.EXECUTED
    result = error = None
    if failure or not 200 <= status < 300:
        error = failure or "tool_error"
    elif body is None:
        error = "result_too_large"
    elif (result := _result(body)) is None:
        error = "result_not_json"
    if result is not None:
        return _document(call, ok=True, allowed=True, decision=decision, reason=reason, result=result)
    told = _compact({"error": error, "status": status or None})
    return _document(call, ok=False, allowed=True, decision=decision, reason="tool_error", result=told)


def _result(body: bytes) -> bytes | None:
    """A tool's JSON as a result: an object as it is, another value wrapped, None for what is not JSON."""
    try:
        value = strict_json.parse(body)
    except InvalidRequestError:
        return None
    return body if isinstance(value, dict) else b'{"value":%b}' % body


def _document(call: Call, *, ok: bool, allowed: bool, decision: Decision, reason: str, result: bytes) -> bytes:
    told = {
        "ok": ok,
        "allowed": allowed,
        "decision": decision.value,
        "policy_reason": reason,
        "risk_level": call.verdict.risk_level or None,
    }
    return b'%b,"result":%b}' % (_compact(told)[:-1], result)
