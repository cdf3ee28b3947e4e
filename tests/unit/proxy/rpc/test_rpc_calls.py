"""A unary call by gRPC, from the agent's channel to the tool and back."""

import asyncio
import time
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode as Code

from interlock.governance.errors import NotFoundError, UnavailableError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from tests.rpc_agent import PAY, RpcAgent, agent_at, told
from tests.rpc_tool import RpcTool, never, says, waits_for
from tests.unit.proxy.scripted_engine import ScriptedEngine, blocked, executed, running

CALL_ID = "call_" + "1" * 22


def details(*messages: Any) -> bytes:
    status = status_pb2.Status(code=8, message="of the tool")
    for message in messages:
        packed = AnyMessage()
        packed.Pack(message)
        status.details.append(packed)
    return status.SerializeToString()


async def test_a_call_reaches_its_tool_signed_and_its_answer_comes_back(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    engine.tool.secrets.append("a secret of the tool")
    rpc_tool.does(
        says(b"done", initial=(("x-a", "1"), ("x-a", "2"), ("b-bin", b"\0\xff")), trailing=(("c-bin", b"\xfe"),))
    )
    answer = await rpc_agent.call(b"\x08\x05", metadata=(("traceparent", "00-1-2-01"), ("d-bin", b"\0\1\xff")))
    [received] = rpc_tool.received
    assert (answer.code, answer.messages) == (Code.OK, [b"done"])
    assert answer.initial == [("x-a", "1"), ("x-a", "2"), ("b-bin", b"\0\xff")]
    assert answer.trailing == [("c-bin", b"\xfe"), ("interlock-decision", "executed"), ("interlock-call-id", CALL_ID)]
    assert (received.method, received.message) == (PAY, b"\x08\x05")
    assert received.value("idempotency-key") == engine.authorized[0].fingerprint.hex()
    assert (received.value("interlock-agent"), received.value("interlock-call-id")) == ("a", CALL_ID)
    assert received.value("traceparent") == "00-1-2-01"
    assert received.value("d-bin") == b"\0\1\xff"
    for family in ("x-onceonly-signature", "webhook-signature", "signature"):
        assert received.value(family)


async def test_what_speaks_for_interlock_and_the_agents_key_pass_in_neither_direction(
    rpc_agent: RpcAgent, rpc_tool: RpcTool
) -> None:
    of_the_tool = (
        ("interlock-decision", "executed"),
        ("idempotent-replayed", "true"),
        ("signature", "x"),
        ("kept", "y"),
    )
    rpc_tool.does(says(b"1", initial=of_the_tool, trailing=of_the_tool))
    mine = (
        ("interlock-fence", "9"),
        ("webhook-id", "x"),
        ("x-onceonly-signature", "x"),
        ("cookie", "c"),
        ("prefer", "wait=1"),
    )
    answer = await rpc_agent.call(metadata=mine)
    [received] = rpc_tool.received
    assert received.value("interlock-fence") == "7"
    for name in ("authorization", "webhook-id", "x-onceonly-signature", "cookie", "prefer"):
        assert received.value(name) is None
    assert answer.initial == [("kept", "y")]
    assert answer.trailing == [("kept", "y"), ("interlock-decision", "executed"), ("interlock-call-id", CALL_ID)]


async def test_the_tools_own_credential_takes_the_place_of_the_agents_field(
    rpc_agent: RpcAgent, engine: ScriptedEngine, rpc_tool: RpcTool
) -> None:
    engine.tool.upstream_credential.MergeFrom(pb.UpstreamCredential(header="Authorization", value="Bearer of the tool"))
    await rpc_agent.call()
    assert rpc_tool.received[0].value("authorization") == "Bearer of the tool"


async def test_what_the_agent_says_of_itself_in_metadata_is_asked_of_the_engine(
    rpc_agent: RpcAgent, engine: ScriptedEngine
) -> None:
    await rpc_agent.call(
        metadata=(
            ("idempotency-key", '"k 1"'),
            ("interlock-agent", "shopper"),
            ("interlock-run-id", "run-1"),
            ("interlock-spend-usd", "0.000001"),
        )
    )
    [asked] = engine.authorized
    assert (asked.credential, asked.agent_id, asked.idempotency_key) == ("once_live_key", "shopper", "k 1")
    assert (asked.run_id, asked.declared_spend_micros, asked.method) == ("run-1", 1, "POST")
    assert asked.tool == "pay.v1.Payments.Charge"


async def test_the_same_bytes_for_the_same_method_are_the_same_call_and_others_are_not(
    rpc_agent: RpcAgent, engine: ScriptedEngine
) -> None:
    await rpc_agent.call(b"\x08\x05", metadata=(("x-try", "1"),))
    await rpc_agent.call(b"\x08\x05", metadata=(("x-try", "2"),))
    await rpc_agent.call(b"\x08\x06")
    first, second, other = (asked.fingerprint for asked in engine.authorized)
    assert first == second != other


@pytest.mark.parametrize(
    ("metadata", "reason", "code"),
    [
        ((("idempotency-key", "k" * 257),), "invalid_idempotency_key", Code.INVALID_ARGUMENT),
        ((("idempotency-key", "a"), ("idempotency-key", "b")), "invalid_idempotency_key", Code.INVALID_ARGUMENT),
        ((("interlock-spend-usd", "NaN"),), "invalid_spend", Code.INVALID_ARGUMENT),
        ((("interlock-agent", "a}b"),), "invalid_header", Code.INVALID_ARGUMENT),
        ((("interlock-run-id", "a b"),), "invalid_header", Code.INVALID_ARGUMENT),
        ((("authorization", "Bearer b"),), "invalid_key", Code.UNAUTHENTICATED),
        ((("origin", "http://page.example"),), "origin_not_allowed", Code.PERMISSION_DENIED),
    ],
)
async def test_bad_metadata_is_refused_with_a_reason(
    rpc_agent: RpcAgent, engine: ScriptedEngine, metadata: Any, reason: str, code: Code
) -> None:
    answer = await rpc_agent.call(metadata=metadata)
    assert (answer.code, answer.reason, answer.info.domain) == (code, reason, "interlock.dev")
    assert answer.decision == "error"
    assert engine.authorized == []


async def test_a_call_without_a_key_is_unauthenticated(sidecar: Sidecar, engine: ScriptedEngine) -> None:
    async with agent_at(sidecar.grpc_port or 0, ("x", "y")) as keyless:
        answer = await keyless.call()
    assert (answer.code, answer.reason) == (Code.UNAUTHENTICATED, "missing_key")
    assert engine.resolved == 0


@pytest.mark.parametrize(
    "method",
    ["/Charge", "/pay.v1.Payments/", "/pay/v1/Charge", "/pay..v1/C", "/a b/C", "/p/C%2f", "/" + "p" * 128 + "/C"],
)
async def test_a_path_that_is_no_method_is_refused(rpc_agent: RpcAgent, engine: ScriptedEngine, method: str) -> None:
    answer = await rpc_agent.call(method=method)
    assert (answer.code, answer.reason) == (Code.INVALID_ARGUMENT, "invalid_path")
    assert engine.resolved == 0


# Which tool is meant.


async def test_a_service_that_takes_methods_is_meant_where_the_method_is_no_tool_of_its_own(
    rpc_agent: RpcAgent, engine: ScriptedEngine, rpc_tool: RpcTool
) -> None:
    engine.tool.name, engine.tool.subpaths = "pay.v1.Payments", True
    answer = await rpc_agent.call()
    assert answer.code is Code.OK
    assert engine.authorized[0].tool == "pay.v1.Payments"
    assert rpc_tool.received[0].method == PAY


async def test_a_service_that_takes_no_methods_is_no_door(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    engine.tool.name = "pay.v1.Payments"
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason) == (Code.UNIMPLEMENTED, "subpath_not_allowed")
    assert engine.authorized == []


async def test_a_method_that_becomes_a_tool_rules_at_once(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    engine.tool.name, engine.tool.subpaths = "pay.v1.Payments", True
    await rpc_agent.call()
    engine.tool.name, engine.tool.subpaths = "pay.v1.Payments.Charge", False
    engine.verdicts.append(blocked("tool_disabled"))
    answer = await rpc_agent.call()
    assert engine.authorized[-1].tool == "pay.v1.Payments.Charge"
    assert (answer.code, answer.reason) == (Code.PERMISSION_DENIED, "tool_disabled")


async def test_a_service_is_not_called_as_if_it_were_a_method_of_another(
    rpc_agent: RpcAgent, engine: ScriptedEngine
) -> None:
    engine.tool.subpaths = True
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason) == (Code.UNIMPLEMENTED, "tool_is_service")
    assert engine.authorized == []


async def test_an_http_tool_is_not_called_by_grpc(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    engine.tool.url = "http://127.0.0.1:9/tool"
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason) == (Code.UNIMPLEMENTED, "tool_is_http")
    assert engine.authorized == []


async def test_an_unknown_method_is_unimplemented_and_not_not_found(rpc_agent: RpcAgent) -> None:
    answer = await rpc_agent.call(method="/pay.v1.Refunds/Make")
    assert (answer.code, answer.reason) == (Code.UNIMPLEMENTED, "tool_not_found")


# Arity.


async def test_a_stream_of_the_agents_is_refused_before_anything_is_judged(
    rpc_agent: RpcAgent, engine: ScriptedEngine, rpc_tool: RpcTool
) -> None:
    # Of a third message grpc.aio's client may learn that it comes too late, and then forgets the status.
    call = rpc_agent.channel.stream_stream(PAY)(iter([b"1", b"2"]), metadata=rpc_agent.metadata, timeout=20)
    answer = await told(call)
    assert (answer.code, answer.reason) == (Code.UNIMPLEMENTED, "client_streaming")
    assert (engine.resolved, rpc_tool.received) == (0, [])


async def test_a_request_without_a_message_is_refused(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    answer = await told(rpc_agent.channel.stream_stream(PAY)(iter([]), metadata=rpc_agent.metadata, timeout=20))
    assert (answer.code, answer.reason) == (Code.INVALID_ARGUMENT, "no_message")
    assert engine.resolved == 0


async def test_an_empty_message_is_a_message(rpc_agent: RpcAgent, rpc_tool: RpcTool) -> None:
    rpc_tool.does(says(b""))
    assert (await rpc_agent.call(b"")).messages == [b""]
    assert rpc_tool.received[0].message == b""


# Verdicts.


@pytest.mark.parametrize(
    ("verdict", "code", "retry_s", "decision"),
    [
        (
            blocked("tool_explicitly_blocked", matched_rule="blocked_tools: pay.*"),
            Code.PERMISSION_DENIED,
            None,
            "blocked",
        ),
        (blocked("no_policy"), Code.PERMISSION_DENIED, None, "blocked"),
        (blocked("kill_switch"), Code.PERMISSION_DENIED, None, "blocked"),
        (blocked("max_actions_per_hour_exceeded", retry_after_ms=1500), Code.RESOURCE_EXHAUSTED, 2, "blocked"),
        (blocked("max_calls_per_tool_exceeded"), Code.RESOURCE_EXHAUSTED, None, "blocked"),
        (blocked("max_spend_usd_per_day_exceeded", retry_after_ms=5000), Code.RESOURCE_EXHAUSTED, 5, "blocked"),
        (running(), Code.ABORTED, 1, "in_flight"),
        (
            pb.AuthorizeResponse(verdict=pb.VERDICT_MISMATCH, reason="idempotency_key_reused"),
            *(Code.INVALID_ARGUMENT, None, "mismatch"),
        ),
        (
            pb.AuthorizeResponse(verdict=pb.VERDICT_UNKNOWN, reason="outcome_unknown"),
            *(Code.FAILED_PRECONDITION, None, "unknown"),
        ),
    ],
)
async def test_each_verdict_is_a_status_with_its_reason(
    rpc_agent: RpcAgent,
    rpc_tool: RpcTool,
    engine: ScriptedEngine,
    verdict: pb.AuthorizeResponse,
    code: Code,
    retry_s: int | None,
    decision: str,
) -> None:
    engine.verdicts.append(verdict)
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason, answer.retry_s) == (code, verdict.reason, retry_s)
    assert answer.decision == decision
    assert answer.info.metadata.get("matched_rule", "") == verdict.matched_rule
    assert answer.info.metadata.get("call_id", "") == verdict.call_id
    assert answer.info.metadata["retryable"] == str(retry_s is not None).lower()
    assert rpc_tool.received == []


async def test_what_is_left_of_a_budget_is_told(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    budget = pb.Budget(
        actions_limit=5, actions_left=0, tool_calls_limit=-1, spend_limit_micros=2_000_000, spend_left_micros=500_000
    )
    engine.verdicts.append(blocked("max_actions_per_hour_exceeded", budget=budget))
    answer = await rpc_agent.call()
    assert answer.info.metadata["budget.actions_left"] == "0"
    assert answer.info.metadata["budget.spend_left_usd"] == "0.5"
    assert answer.trailer("ratelimit") == '"actions";r=0;t=3600'


async def test_an_engine_that_is_down_is_unavailable_at_once(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    engine.error = UnavailableError("governance_unavailable", "Redis cannot be reached")
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason, answer.retry_s) == (Code.UNAVAILABLE, "governance_unavailable", 1)


async def test_a_replay_is_the_kept_answer_with_messages_metadata_and_status(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    rpc_tool.does(says(b"done", initial=(("a-bin", b"\0\xff"),), trailing=(("b", "1"), ("c-bin", b"\xfe"))))
    first = await rpc_agent.call()
    kept = engine.settled[0].answer
    engine.verdicts.append(
        pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=kept, call_id=CALL_ID)
    )
    second = await rpc_agent.call()
    assert (second.code, second.messages, second.initial) == (first.code, first.messages, first.initial)
    assert second.trailing == [
        *(("b", "1"), ("c-bin", b"\xfe"), ("interlock-decision", "dedup")),
        *(("interlock-call-id", CALL_ID), ("idempotent-replayed", "true")),
    ]
    assert len(rpc_tool.received) == 1


async def test_a_waiter_gets_the_error_that_the_leader_got(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    rpc_tool.does(says(code=Code.NOT_FOUND, details="no such card: 5 % é", trailing=(("why", "x"),)))
    await rpc_agent.call()
    kept = engine.settled[0].answer
    engine.verdicts += [
        running(),
        pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=kept),
    ]
    answer = await rpc_agent.call(metadata=(("prefer", "wait=5"),))
    assert (answer.code, answer.details, answer.trailer("why")) == (Code.NOT_FOUND, "no such card: 5 % é", "x")
    assert len(engine.awaited) == 1


async def test_an_answer_too_large_to_keep_is_told_by_its_size(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    rpc_tool.does(says(b"x" * 2_000))
    assert (await rpc_agent.call()).messages == [b"x" * 2_000]
    kept = engine.settled[0].answer
    assert (kept.kept, kept.body, kept.size) == (False, b"", 2_005)
    engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_REPLAY, reason="tool_idempotency", answer=kept))
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason, answer.messages) == (Code.ALREADY_EXISTS, "answer_not_kept", [])
    assert answer.info.metadata["original.size"] == "2005"


# What the tool says.


AMBIGUOUS = ("CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK], ids=lambda code: code.name)
async def test_each_status_of_a_tool_reaches_the_agent_and_settles_the_call(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine, code: Code
) -> None:
    outcome = pb.OUTCOME_AMBIGUOUS if code.name in AMBIGUOUS else pb.OUTCOME_REJECTED
    error = details(error_details_pb2.ErrorInfo(reason="ITS_OWN", domain="pay.example"))
    rpc_tool.does(says(code=code, details="its words", trailing=(("grpc-status-details-bin", error), ("x", "y"))))
    answer = await rpc_agent.call()
    assert (answer.code, answer.details, answer.reason) == (code, "its words", "ITS_OWN")
    assert (answer.trailer("x"), answer.decision) == ("y", "executed")
    assert (engine.settled[0].outcome, engine.settled[0].failure) == (outcome, "")
    assert len(rpc_tool.received) == 1


@pytest.mark.parametrize(("on_ambiguous", "tries"), [(pb.ON_AMBIGUOUS_RETRY, 2), (pb.ON_AMBIGUOUS_HOLD, 1)])
async def test_an_ambiguous_status_is_tried_again_only_at_a_tool_that_may_be(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine, on_ambiguous: Any, tries: int
) -> None:
    rpc_tool.does(says(code=Code.UNAVAILABLE), says(b"now"))
    engine.tool.max_retries, engine.tool.on_ambiguous = 2, on_ambiguous
    answer = await rpc_agent.call()
    assert answer.code is (Code.OK if tries == 2 else Code.UNAVAILABLE)
    assert len({received.value("idempotency-key") for received in rpc_tool.received}) == 1
    assert len(rpc_tool.received) == tries


@pytest.mark.parametrize("seconds", [2**62, -(2**62)])
async def test_a_success_is_one_however_far_away_its_tool_says_to_come_back(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine, seconds: int
) -> None:
    never_ending = details(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds)))
    rpc_tool.does(says(b"done", trailing=(("grpc-status-details-bin", never_ending),)))
    answer = await rpc_agent.call()
    assert (answer.code, answer.messages) == (Code.OK, [b"done"])
    assert [settled.outcome for settled in engine.settled] == [pb.OUTCOME_SUCCEEDED]
    assert len(rpc_tool.received) == 1


async def test_a_tool_that_says_when_is_tried_again_then(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    soon = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=200_000_000))
    late = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60))
    limited = [
        says(code=Code.RESOURCE_EXHAUSTED, trailing=(("grpc-status-details-bin", details(when)),))
        for when in (soon, late)
    ]
    rpc_tool.does(*limited)
    engine.tool.max_retries = 5
    began = time.monotonic()
    answer = await rpc_agent.call()
    assert time.monotonic() - began >= 0.2
    assert (answer.code, answer.retry_s, len(rpc_tool.received)) == (Code.RESOURCE_EXHAUSTED, 60, 2)


# Deadlines.


async def test_the_agents_deadline_is_passed_on_less_a_margin(rpc_agent: RpcAgent, rpc_tool: RpcTool) -> None:
    await rpc_agent.call(within_s=10)
    await rpc_agent.call(within_s=None)
    first, second = (received.left_s for received in rpc_tool.received)
    assert first is not None
    assert 9 < first < 9.96
    assert second is None


async def test_a_tool_that_outlasts_the_agents_deadline_has_timed_out(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    rpc_tool.does(never)
    answer = await rpc_agent.call(within_s=0.5)
    assert answer.code is Code.DEADLINE_EXCEEDED
    settled = await engine.until_settled()
    assert (settled.outcome, settled.failure) == (pb.OUTCOME_AMBIGUOUS, "upstream_timeout")
    await rpc_tool.until_ended(1)


async def test_a_tool_that_outlasts_its_own_timeout_has_timed_out(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    rpc_tool.does(never)
    engine.tool.timeout_ms = 250
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason) == (Code.DEADLINE_EXCEEDED, "upstream_timeout")
    assert engine.settled[0].outcome == pb.OUTCOME_AMBIGUOUS


async def test_a_deadline_that_is_over_sends_nothing(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    async def slow(request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        await asyncio.sleep(0.3)
        return executed(request)

    engine._authorize = slow  # type: ignore[method-assign]
    answer = await rpc_agent.call(within_s=0.2)
    assert answer.code is Code.DEADLINE_EXCEEDED
    settled = await engine.until_settled()
    assert (settled.outcome, settled.failure) == (pb.OUTCOME_NOT_SENT, "deadline_exceeded")
    assert rpc_tool.received == []


# Settling.


async def test_the_answer_of_a_unary_call_is_withheld_until_it_is_settled(
    rpc_agent: RpcAgent, engine: ScriptedEngine
) -> None:
    engine.before_settling.clear()
    calling = asyncio.create_task(rpc_agent.call())
    await engine.settling.wait()
    done, _ = await asyncio.wait([calling], timeout=0.1)
    assert not done
    engine.before_settling.set()
    assert (await calling).code is Code.OK


async def test_an_answer_that_could_not_be_settled_says_so(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    engine.settle_error = UnavailableError("governance_unavailable", "Redis cannot be reached")
    answer = await rpc_agent.call()
    assert (answer.code, answer.trailer("interlock-settled")) == (Code.OK, "pending")


async def test_a_call_whose_agent_hangs_up_is_settled_all_the_same(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    gate = asyncio.Event()
    rpc_tool.does(waits_for(gate, says(b"done")))
    call = rpc_agent.channel.unary_unary(PAY)(b"1", metadata=rpc_agent.metadata)
    await rpc_tool.until_received(1)
    call.cancel()
    gate.set()
    settled = await engine.until_settled()
    assert (settled.outcome, settled.answer.body) == (pb.OUTCOME_SUCCEEDED, b"\0\0\0\0\4done")


async def test_a_tool_that_vanished_in_between_is_no_longer_known(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    await rpc_agent.call()
    engine.error = NotFoundError("tool_not_found", "no such tool")
    assert (await rpc_agent.call()).reason == "tool_not_found"


async def test_a_message_as_large_as_may_be_comes_whole(rpc_agent: RpcAgent, rpc_tool: RpcTool) -> None:
    rpc_tool.does(says(b"x" * 16 * 1024 * 1024))
    answer = await rpc_agent.call()
    assert (answer.code, [len(message) for message in answer.messages]) == (Code.OK, [16 * 1024 * 1024])


async def test_a_credential_that_is_no_metadata_sends_nothing(
    rpc_agent: RpcAgent, engine: ScriptedEngine, rpc_tool: RpcTool
) -> None:
    engine.tool.upstream_credential.MergeFrom(pb.UpstreamCredential(header="X-Api-Key", value="clé-secrète"))
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason, rpc_tool.received) == (Code.UNKNOWN, "upstream_invalid", [])
    assert engine.settled[0].outcome == pb.OUTCOME_NOT_SENT
