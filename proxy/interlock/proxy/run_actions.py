"""The actions of keyed runs: each a governed call, through the same pipeline as any other, and told as one is told."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

from interlock.governance.errors import ConflictError, InterlockError, UnavailableError
from interlock.governance.tool_urls import is_grpc
from interlock.governance.v1 import governance_pb2, runs_pb2
from interlock.governance.values import replace
from interlock.proxy.call import WHOLE_DEADLINE, Ask, Call, Draft, Incoming
from interlock.proxy.fingerprint import fingerprint
from interlock.proxy.outcomes import full_jitter
from interlock.proxy.pipeline import Pipeline
from interlock.proxy.request_errors import ToolIsGrpcError
from interlock.proxy.run_board import RunBoard
from interlock.proxy.run_route import JSON_CONTENT_TYPE, PATH, WholeAgent, answer_document, envelope
from interlock.proxy.settings import KiB, MiB
from interlock.proxy.stages.identify import Tools

ROOM_BYTES = 1 * MiB - 64 * KiB
"""For what came of all actions of a run: its result has at most 1 MiB, and each entry stays even where it is cut."""
RUN_LOST = "run_lost"
WAITED_OUT = frozenset({"audit_backlog", "lease_lost", "rate_limited"})
"""Reasons that say nothing about the action, and pass."""


class RunLostError(ConflictError):
    """Another worker has the run, or it is over."""

    def __init__(self) -> None:
        super().__init__(RUN_LOST, "the run is no longer this worker's")


class NotDecidedError(InterlockError):
    """The action is neither done nor refused: it is to be tried again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action: a JSON object to be kept, and why the run ends with it, if it does."""

    document: bytes
    error_code: str = ""


class ActionEntrance:
    """One action as a way into the pipeline: what a run asks for, in place of an agent's request."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def read(self, _: Incoming) -> Ask:
        return self._ask

    def refusal(self, _: Ask, tool: governance_pb2.ToolRoute) -> InterlockError | None:
        return ToolIsGrpcError() if is_grpc(tool.url) else None

    def draft(self, call: Call) -> Draft:
        return envelope(call)


class Actions:
    """Does the actions of runs."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def act(self, run: runs_pb2.Run, index: int) -> Outcome:
        """Does an action, however often it takes until the engine has decided on it and its outcome is settled.

        Errors: RunLostError; UnavailableError `draining`.
        """
        return await _until_decided(partial(self._try, run, index))

    async def _try(self, run: runs_pb2.Run, index: int) -> Outcome:
        """Errors: NotDecidedError, RunLostError, `draining`."""
        incoming = Incoming("POST", PATH, (), b"", request_id=secrets.token_hex(16))
        entrance = ActionEntrance(ask_of(run, index))
        try:
            call = await self._pipeline.carry(Call(entrance, WholeAgent(), incoming))
        except InterlockError as error:
            return _outcome_of_error(run, index, error)
        if call.verdict.verdict == governance_pb2.VERDICT_IN_FLIGHT or call.reason in WAITED_OUT:
            # An earlier worker of this run began it, and its call's lease still holds.
            raise NotDecidedError(call.reason, "the action is not decided yet")
        error_code = "outcome_unknown" if call.held else ""
        told = json.loads(answer_document(call))
        return outcome_of(run, index, told | _DONE_WITHOUT_ANSWER if _answer_is_gone(call) else told, error_code)


@dataclass(slots=True)
class _Used:
    """What a dry run's actions would have used so far."""

    actions: int = 0
    spend_micros: int = 0
    tool_calls: dict[str, int] = field(default_factory=dict)


class Foresight:
    """Decides the actions of a dry run, in order, as they would be decided now: nothing is sent, counted or kept."""

    def __init__(self, board: RunBoard, tools: Tools) -> None:
        self._board = board
        self._tools = tools
        self._used = _Used()

    async def act(self, run: runs_pb2.Run, index: int) -> Outcome:
        """Errors: as `Actions.act`; each verdict is told, and none ends the run."""
        return replace(await _until_decided(partial(self._try, run, index)), error_code="")

    async def _try(self, run: runs_pb2.Run, index: int) -> Outcome:
        ask = ask_of(run, index)
        try:
            tool = await self._tools.resolve(ask, anew=True)
            if refusal := ActionEntrance(ask).refusal(ask, tool):
                raise refusal
            verdict = await self._board.foresee(self._question(ask, tool))
        except InterlockError as error:
            return _outcome_of_error(run, index, error)
        if verdict.verdict in (governance_pb2.VERDICT_TOOL_CHANGED, governance_pb2.VERDICT_IN_FLIGHT):
            raise NotDecidedError(verdict.reason, "the action is not decided yet")
        self._count(ask.tool, verdict)
        return outcome_of(run, index, _foreseen(verdict))

    def _question(self, ask: Ask, tool: governance_pb2.ToolRoute) -> runs_pb2.ForeseeActionRequest:
        digests = fingerprint(
            tool=tool.name, method=ask.method, path=PATH, query="", content_type=ask.content_type, body=ask.arguments
        )
        call = governance_pb2.AuthorizeRequest(
            attempt_id=secrets.token_urlsafe(16),
            credential=ask.credential,
            agent_id=ask.agent_id,
            tool=ask.tool,
            tool_revision=tool.revision,
            method=ask.method,
            fingerprint=digests.call,
            args_digest=digests.arguments,
            declared_spend_micros=ask.spend_micros,
            run_id=ask.run_id,
            run_action=ask.run_action,
            run_action_digest=ask.run_action_digest,
        )
        used = self._used
        return runs_pb2.ForeseeActionRequest(
            call=call,
            actions=used.actions,
            tool_calls=used.tool_calls.get(ask.tool, 0),
            spend_micros=used.spend_micros,
        )

    def _count(self, tool: str, verdict: governance_pb2.AuthorizeResponse) -> None:
        if verdict.verdict == governance_pb2.VERDICT_EXECUTE:
            self._used.actions += 1
            self._used.spend_micros += verdict.charged_micros
            self._used.tool_calls[tool] = self._used.tool_calls.get(tool, 0) + 1


async def _until_decided(attempt: Callable[[], Awaitable[Outcome]]) -> Outcome:
    tries = 0
    while True:
        try:
            return await attempt()
        except NotDecidedError:
            tries += 1
            await asyncio.sleep(full_jitter(tries))


def ask_of(run: runs_pb2.Run, index: int) -> Ask:
    """What an action asks for. Its key is the engine's to make: of the run, the index and what was queued."""
    action = run.actions[index]
    queued = json.dumps([action.tool, action.args.decode(), action.declared_spend_micros]).encode()
    return Ask(
        tool=action.tool,
        path=PATH,
        content_type=JSON_CONTENT_TYPE,
        arguments=action.args,
        credential=run.grant,
        agent_id=run.agent_id,
        spend_micros=action.declared_spend_micros,
        run_id=run.run_id,
        traced_by_argument=True,
        part_of_run=True,
        wait_s=WHOLE_DEADLINE,
        run_action=index + 1,
        run_action_digest=sha256(queued).digest(),
    )


def outcome_of(run: runs_pb2.Run, index: int, told: dict[str, Any], error_code: str = "") -> Outcome:
    """An action's entry in the run's result, from what `/v1/ai/run` would have answered; cut where it has no room."""
    entry = {"index": index, "tool": run.actions[index].tool, **told}
    document = _json_bytes(entry)
    if len(document) > ROOM_BYTES - run.kept_bytes:
        document = _json_bytes(entry | {"result": None, "result_cut_bytes": len(document)})
    failed = "" if told["ok"] else str(told["policy_reason"])
    return Outcome(document, failed and (error_code or failed))


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _outcome_of_error(run: runs_pb2.Run, index: int, error: InterlockError) -> Outcome:
    """An action that an error ended before anything was sent. Errors: NotDecidedError, RunLostError, `draining`."""
    if error.reason == "draining":
        raise error
    if error.reason == RUN_LOST:
        raise RunLostError from error
    if isinstance(error, UnavailableError | ConflictError) or error.reason in WAITED_OUT:
        raise NotDecidedError(error.reason, error.message) from error
    return outcome_of(run, index, _refused(error.reason))


_DONE_WITHOUT_ANSWER = {"ok": True, "allowed": True, "policy_reason": "answer_not_kept", "result": None}


def _answer_is_gone(call: Call) -> bool:
    """Whether the tool did what it was asked to, and its answer was too large to be kept for this."""
    if call.verdict.verdict == governance_pb2.VERDICT_REPLAY:
        answer = call.verdict.answer
        return not call.verdict.failure and not answer.kept and 200 <= answer.status < 300
    forwarded = call.forwarded
    return forwarded.answered and not forwarded.whole and 200 <= forwarded.status < 300


def _refused(reason: str) -> dict[str, Any]:
    return {
        "ok": False,
        "allowed": False,
        "decision": "blocked",
        "policy_reason": reason,
        "risk_level": None,
        "result": None,
    }


def _foreseen(verdict: governance_pb2.AuthorizeResponse) -> dict[str, Any]:
    """An action of a dry run: allowed, it says `dry_run` where a real one says `executed`."""
    passes = verdict.verdict in (governance_pb2.VERDICT_EXECUTE, governance_pb2.VERDICT_REPLAY)
    decision = "dedup" if verdict.verdict == governance_pb2.VERDICT_REPLAY else "dry_run"
    return {
        "ok": passes,
        "allowed": passes,
        "decision": decision if passes else "blocked",
        "policy_reason": verdict.reason,
        "risk_level": verdict.risk_level or None,
        "result": None,
    }
