"""`/tools/{tool}`: the agent's request goes to the tool as it is, the tool's answer comes back as it is."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

import structlog
from aiohttp import web

from interlock.governance.errors import InterlockError, InternalError, InvalidRequestError, NotFoundError
from interlock.governance.tool_urls import is_grpc
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.answering import REQUEST_ID, ExactAnswer, incoming_of
from interlock.proxy.call import Ask, Call, Draft, Forwarded, Headers, Incoming
from interlock.proxy.headers import forwardable
from interlock.proxy.pipeline import Pipeline
from interlock.proxy.plain_lane import PlainAgent
from interlock.proxy.problems import (
    Problem,
    error_fields,
    problem_of_call,
    problem_of_error,
    standing_fields,
)
from interlock.proxy.request_errors import ToolIsGrpcError
from interlock.proxy.stages.intercept import OwnIdentity, RequestFields, check_target, tool_name

log = structlog.get_logger()

PREFIX = "/tools/"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ToolsEntrance:
    """Calls as HTTP: method, sub-path, query and body are the agent's."""

    def __init__(self, own: OwnIdentity) -> None:
        self._own = own

    async def read(self, incoming: Incoming) -> Ask:
        check_target(incoming.target)
        path, _, query = incoming.target.partition("?")
        name, slash, below = path.removeprefix(PREFIX).partition("/")
        tool, subpath, fields = tool_name(unquote(name)), slash + below, RequestFields(incoming)
        return Ask(
            tool=tool,
            method=incoming.method,
            path=PREFIX + tool + subpath,
            subpath=subpath,
            query=query,
            content_type=fields.one("Content-Type"),
            arguments=incoming.body,
            headers=tuple(forwardable(incoming.headers)),
            credential=fields.credential(self._own.key),
            agent_id=fields.agent_id(self._own.agent_id),
            idempotency_key=fields.idempotency_key(),
            spend_micros=fields.spend_micros(),
            run_id=fields.run_id(),
            wait_s=fields.wait_s(),
        )

    def refusal(self, ask: Ask, tool: pb.ToolRoute) -> InterlockError | None:
        if is_grpc(tool.url):
            return ToolIsGrpcError()
        if ask.method not in tool.methods:
            allowed = ", ".join(tool.methods)
            return InvalidRequestError("method_not_allowed", f"this tool takes {allowed} only", allow=allowed)
        if ask.subpath and not tool.subpaths:
            return NotFoundError("subpath_not_allowed", "this tool takes no path below its own")
        if tool.dedup_mode == pb.DEDUP_MODE_HEADER and not ask.idempotency_key:
            return InvalidRequestError("idempotency_key_required", "this tool wants an Idempotency-Key with every call")
        return None

    def draft(self, call: Call) -> Draft:
        ask = call.ask
        return Draft(ask.method, upstream_url(call.tool.url, ask.subpath, ask.query), ask.headers, ask.arguments)


def upstream_url(url: str, subpath: str, query: str) -> str:
    """A tool's URL with what the agent named below it, byte for byte."""
    base, _, own_query = url.partition("?")
    path = base.rstrip("/") + subpath if subpath else base
    queries = "&".join(part for part in (own_query, query) if part)
    return f"{path}?{queries}" if queries else path


class HttpAgent:
    """The agent behind one request."""

    takes_pieces = True

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._answer: ExactAnswer | None = None
        self.gone = False

    @property
    def begun(self) -> bool:
        return self._answer is not None

    async def begin(self, call: Call, head: Forwarded) -> None:
        answer = self._answer = self._made(call, head.status, head.headers)
        await self._send(answer.prepare(self._request))

    async def pass_on(self, piece: bytes) -> None:
        if self._answer is not None and not self.gone:
            await self._send(self._answer.write(piece))

    async def finish(self, call: Call) -> web.StreamResponse:
        """The rest of the answer, or all of it, now that the call is over."""
        if self._answer is None:
            return self._whole(call)
        if call.forwarded.answered and not self.gone:
            await self._send(self._answer.write_eof(call.forwarded.last))
        else:
            self._answer.break_off()
        return self._answer

    async def _send(self, writing: Awaitable[object]) -> None:
        """Writes, unless the agent has left, or was left as it took nothing: that is no reason to stop its call."""
        try:
            await writing
        except ConnectionError:
            self.gone = True

    def _whole(self, call: Call) -> ExactAnswer:
        status, headers, body = answer_to(call)
        return self._made(call, status, headers, body)

    def _made(self, call: Call, status: int, headers: Headers, body: bytes | None = None) -> ExactAnswer:
        answer = ExactAnswer(status, (*headers, *standing_fields(call)), body)
        answer.headers["X-Request-Id"] = self._request[REQUEST_ID]
        return answer


def answer_to(call: Call) -> tuple[int, Headers, bytes]:
    """Status, fields and body for a call of which nothing has left to the agent yet."""
    forwarded, verdict = call.forwarded, call.verdict
    if call.executed and forwarded.answered:
        return forwarded.status, forwarded.headers, forwarded.body
    if verdict.verdict == pb.VERDICT_REPLAY and verdict.answer.kept:
        answer = verdict.answer
        return answer.status, tuple((header.name, header.value) for header in answer.headers), answer.body
    problem = problem_of_call(call)
    return problem.status, problem.fields(), problem.document()


class ToolsRoute:
    """The handler: translates between HTTP and calls."""

    def __init__(self, pipeline: Pipeline, own: OwnIdentity, max_body_bytes: int) -> None:
        self._pipeline = pipeline
        self._entrance = ToolsEntrance(own)
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", PREFIX + "{rest:.*}", self.handle)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        incoming = await incoming_of(request, self._max_body_bytes)
        agent = HttpAgent(request)
        call = await self._pipeline.carry(Call(self._entrance, agent, incoming))
        return await agent.finish(call)

    async def serve(self, incoming: Incoming, agent: PlainAgent, *, last: Callable[[], bool]) -> None:
        """The same for a plain call. `last` says whether the connection is to end with its answer."""
        try:
            call = await self._pipeline.carry_on(Call(self._entrance, agent, incoming))
        except InterlockError as error:
            problem = problem_of_error(error)
        except Exception:
            log.exception("request.failed", method=incoming.method, request_id=incoming.request_id)
            problem = problem_of_error(InternalError("internal", "internal error"))
        else:
            if agent.begun:
                await agent.finish(call)
                return
            status, headers, body = answer_to(call)
            await agent.answer(status, (*headers, *standing_fields(call)), body, last=last())
            return
        await agent.answer(problem.status, (*problem.fields(), *error_fields()), problem.document(), last=last())


@web.middleware
async def problem_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever is raised outside `/v1` into a problem document."""
    try:
        return await handler(request)
    except InterlockError as error:
        problem = problem_of_error(error)
    except web.HTTPException as raised:
        allow = (("Allow", raised.headers["Allow"]),) if "Allow" in raised.headers else ()
        problem = Problem(
            raised.status, "no_such_route", "there is nothing here: tools are at /tools/{tool}", headers=allow
        )
    except Exception:
        log.exception("request.failed", method=request.method, request_id=request[REQUEST_ID])
        problem = problem_of_error(InternalError("internal", "internal error"))
    return ExactAnswer(problem.status, (*problem.fields(), *error_fields()), problem.document())
