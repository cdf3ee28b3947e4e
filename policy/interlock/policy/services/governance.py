"""The Governance service: translates, and asks for the sidecars' token."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import structlog

from interlock.governance.errors import InterlockError, InternalError, InvalidRequestError
from interlock.governance.status import failure_of
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import governance_pb2_grpc
from interlock.policy import access
from interlock.policy.answers import answer_of
from interlock.policy.authorizing import MAX_RUN_ID_BYTES, Authorizer
from interlock.policy.degraded import DegradedCalls
from interlock.policy.fields import check_fields, require
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import AGENT_ID, ATTEMPT_ID, CALL_ID, CALL_KEY, NAMESPACE, TOOL_NAME, Tool
from interlock.policy.ports import Ledger
from interlock.policy.renewing import Renewer
from interlock.policy.runs import Runs
from interlock.policy.secrets import Keyring
from interlock.policy.services.messages import (
    OUTCOME_OF,
    OUTCOMES,
    authorize_response,
    degraded_of,
    permit_of,
    question_of,
    route_message,
)
from interlock.policy.services.rpc import abort, require_sidecar, sidecars_rpc
from interlock.policy.tools import owner_of, signing_secrets
from interlock.policy.upstream import opened
from interlock.policy.waiting import Waits

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 1_048_576
MAX_OPEN_QUESTIONS = 4096
"""Questions of one stream that may be under way; further ones wait in the stream (gRPC flow control)."""


class GovernanceService(governance_pb2_grpc.GovernanceServicer):
    """Decisions for sidecars."""

    def __init__(
        self,
        authorizer: Authorizer,
        renewer: Renewer,
        degraded: DegradedCalls,
        runs: Runs,
        ledger: Ledger,
        knowledge: Knowledge,
        waits: Waits,
        keyring: Keyring,
        token: str,
        stream_age_s: float,
    ) -> None:
        self._authorizer = authorizer
        self._renewer = renewer
        self._degraded = degraded
        self._runs = runs
        self._ledger = ledger
        self._knowledge = knowledge
        self._waits = waits
        self._keyring = keyring
        self.token = token
        self._stream_age_s = stream_age_s
        self._exchanges: set[_Exchange] = set()
        self._draining = False

    def drain(self) -> None:
        """Ends every stream, also one that begins later, when what was read of it is answered.

        Whoever asked more on it asks again on a stream elsewhere.
        """
        self._draining = True
        for exchange in self._exchanges:
            exchange.drain()

    @sidecars_rpc
    async def ResolveTool(self, request: pb.ResolveToolRequest) -> pb.ResolveToolResponse:  # noqa: N802 - the contract's name
        scope, tool = await self._authorizer.resolve(request.credential, request.agent_id, request.tool)
        return pb.ResolveToolResponse(
            namespace=scope.namespace, agent_id=scope.agent_id, route=self.route(scope.namespace, tool)
        )

    @sidecars_rpc
    def Authorize(self, request: pb.AuthorizeRequest) -> Awaitable[pb.AuthorizeResponse]:  # noqa: N802 - the contract's name
        return self._authorize(request)

    @sidecars_rpc
    def Renew(self, request: pb.RenewRequest) -> Awaitable[pb.RenewResponse]:  # noqa: N802 - the contract's name
        return self._renew(request)

    @sidecars_rpc
    def Settle(self, request: pb.SettleRequest) -> Awaitable[pb.SettleResponse]:  # noqa: N802 - the contract's name
        return self._settle(request)

    @sidecars_rpc
    async def Await(self, request: pb.AwaitRequest) -> pb.AwaitResponse:  # noqa: N802 - the contract's name
        standing = await self._knowledge.identify(request.credential, of_run=True)
        scope = access.acting_agent(standing.identity, request.agent_id)
        require("call_id", CALL_ID.fullmatch(request.call_id) is not None)
        return pb.AwaitResponse(settled=await self._waits.until_over(scope, request.call_id, request.wait_ms))

    @sidecars_rpc
    async def Abandon(self, request: pb.AbandonRequest) -> pb.AbandonResponse:  # noqa: N802 - the contract's name
        scope = access.acting_agent(
            (await self._knowledge.identify(request.credential, of_run=True)).identity, request.agent_id
        )
        require("attempt_id", ATTEMPT_ID.fullmatch(request.attempt_id) is not None)
        await self._ledger.abandon(scope, request.attempt_id)
        await self._runs.release(scope, request.attempt_id)
        return pb.AbandonResponse()

    @sidecars_rpc
    async def RecordDegraded(self, request: pb.RecordDegradedRequest) -> pb.RecordDegradedResponse:  # noqa: N802 - the contract's name
        if len(request.answer.body) > MAX_BODY_BYTES:
            raise InvalidRequestError("invalid_request", "the answer's body is over 1 MiB", field="answer.body")
        taken = await self._degraded.record(degraded_of(request))
        return pb.RecordDegradedResponse(recorded=taken.recorded, charged_micros=taken.charged_micros)

    async def Exchange(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802 - the contract's name; grpc.aio lets a stream write instead of yield
        try:
            require_sidecar(context, self.token)
        except InterlockError as error:
            await abort(context, error)
        if self._draining:
            return
        exchange = _Exchange(self._answer)
        self._exchanges.add(exchange)
        # A stream would keep its sidecar at this engine for good, however many others there are by now.
        ageing = asyncio.get_running_loop().call_later(self._stream_age_s, exchange.drain)
        try:
            await exchange.run(request_iterator, context.write)
        finally:
            ageing.cancel()
            self._exchanges.discard(exchange)

    async def _answer(self, question: pb.Question) -> pb.Reply:
        """One question of a batch; its failure is its own and not the stream's."""
        try:
            match question.WhichOneof("ask"):
                case "authorize":
                    return pb.Reply(id=question.id, authorize=await self._authorize(question.authorize))
                case "renew":
                    return pb.Reply(id=question.id, renew=await self._renew(question.renew))
                case "settle":
                    return pb.Reply(id=question.id, settle=await self._settle(question.settle))
                case _:
                    empty = InvalidRequestError("invalid_request", "a question asks something", field="ask")
                    return pb.Reply(id=question.id, failure=failure_of(empty))
        except InterlockError as error:
            return pb.Reply(id=question.id, failure=failure_of(error))
        except Exception:
            log.exception("rpc.failed", method="Exchange")
            failed = InternalError("internal", "the governance engine failed")
            return pb.Reply(id=question.id, failure=failure_of(failed))

    async def _authorize(self, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        return authorize_response(await self._authorizer.authorize(question_of(request)))

    async def _renew(self, request: pb.RenewRequest) -> pb.RenewResponse:
        check_permit(request.permit)
        renewal = await self._renewer.renew(permit_of(request.permit), request.credential)
        return pb.RenewResponse(renewed=not renewal.reason, reason=renewal.reason, lease_ms=renewal.lease_ms)

    async def _settle(self, request: pb.SettleRequest) -> pb.SettleResponse:
        check_permit(request.permit)
        outcome = OUTCOME_OF.get(request.outcome)
        if outcome is None:
            raise InvalidRequestError("invalid_request", "an outcome is needed", field="outcome")
        if len(request.answer.body) > MAX_BODY_BYTES:
            raise InvalidRequestError("invalid_request", "the answer's body is over 1 MiB", field="answer.body")
        permit = permit_of(request.permit)
        settlement = await self._ledger.settle(
            permit,
            outcome,
            answer_of(request.answer) if request.HasField("answer") else None,
            request.failure,
            event="settlement",
            facts=_facts(request),
        )
        await self._runs.settled(permit, outcome, settlement)
        return pb.SettleResponse(
            outcome=OUTCOMES[settlement.outcome],
            applied=settlement.applied,
            charged_micros=settlement.charged_micros,
        )

    def route(self, namespace: str, tool: Tool) -> pb.ToolRoute:
        """What is needed to reach a tool, its secrets among it. Errors: `secret_unreadable`."""
        owner = owner_of(namespace, tool)
        credential = opened(tool, owner, self._keyring)
        return route_message(tool, signing_secrets(tool, owner, self._keyring, int(time.time() * 1000)), credential)


class _Exchange:
    """One stream: every question is answered in its own task, and all answers of one loop tick leave in one message."""

    def __init__(self, answer: Callable[[pb.Question], Awaitable[pb.Reply]]) -> None:
        self._answer = answer
        self._replies: list[pb.Reply] = []
        self._ready = asyncio.Event()
        self._room = asyncio.Semaphore(MAX_OPEN_QUESTIONS)
        self._ended = False
        self._draining = False
        self._reader: asyncio.Task[None] | None = None

    def drain(self) -> None:
        """Takes no further question."""
        self._draining = True
        if self._reader is not None:
            self._reader.cancel()

    async def run(
        self, requests: AsyncIterator[pb.ExchangeRequest], write: Callable[[pb.ExchangeResponse], Awaitable[None]]
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write(write))
            async with asyncio.TaskGroup() as under_way:
                self._reader = under_way.create_task(self._read(requests, under_way))
                if self._draining:  # since before there was somebody to cancel
                    self._reader.cancel()
            self._ended = True
            self._ready.set()
            await writer

    async def _read(self, requests: AsyncIterator[pb.ExchangeRequest], under_way: asyncio.TaskGroup) -> None:
        async for batch in requests:
            for question in batch.questions:
                await self._room.acquire()
                under_way.create_task(self._one(question))

    async def _one(self, question: pb.Question) -> None:
        reply = await self._answer(question)
        self._replies.append(reply)
        self._room.release()
        self._ready.set()

    async def _write(self, write: Callable[[pb.ExchangeResponse], Awaitable[None]]) -> None:
        while self._replies or not self._ended:
            await self._ready.wait()
            self._ready.clear()
            replies, self._replies = self._replies, []
            if replies:
                await write(pb.ExchangeResponse(replies=replies))


def check_permit(permit: pb.Permit) -> None:
    """A permit's parts become key names, so nothing in it may break out of one."""
    problems = {
        "namespace": not NAMESPACE.fullmatch(permit.namespace),
        "agent_id": not AGENT_ID.fullmatch(permit.agent_id),
        "tool": not TOOL_NAME.fullmatch(permit.tool),
        "key": not CALL_KEY.fullmatch(permit.key),
        "call_id": not CALL_ID.fullmatch(permit.call_id),
        "attempt_id": not ATTEMPT_ID.fullmatch(permit.attempt_id),
        "run_id": len(permit.run_id.encode()) > MAX_RUN_ID_BYTES,
    }
    check_fields(problems, "permit.")


def _facts(request: pb.SettleRequest) -> str:
    facts: dict[str, object] = {"upstream_us": request.upstream_us}
    if request.HasField("answer"):
        facts |= {"status": request.answer.status, "size": request.answer.size}
        facts["answer_hash"] = request.answer.digest.hex()
    return orjson.dumps(facts).decode()
