"""What an engine takes of sidecars that tell of calls they let through by themselves."""

import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from interlock.governance.errors import InterlockError
from interlock.governance.ids import new_id
from interlock.governance.v1 import admin_pb2
from interlock.governance.v1 import governance_pb2 as pb
from tests.integration.engines import EngineClient, running_engine

DAY_MS = 86_400_000
PRICE = 1_000_000


@pytest.fixture
async def engine(redis_url: str) -> AsyncIterator[EngineClient]:
    async with running_engine(redis_url) as client:
        await client.put_tool(on_governance_failure=pb.ON_GOVERNANCE_FAILURE_OPEN)
        yield client


def told(engine: EngineClient, whose: str = "", **changes: Any) -> pb.RecordDegradedRequest:
    now = int(time.time() * 1000)
    fields: dict[str, Any] = {
        "attempt_id": new_id("a"),
        "credential_digest": hashlib.sha256((whose or engine.key).encode()).digest(),
        "agent_id": "bot-1",
        "tool": "charge",
        "method": "POST",
        "call_id": new_id("call"),
        "key": "ab" * 32,
        "repeatable": True,
        "fingerprint": b"f" * 32,
        "args_digest": b"d" * 32,
        "declared_spend_micros": PRICE,
        "reason": "governance_unavailable",
        "fence": now,
        "outcome": pb.OUTCOME_SUCCEEDED,
        "answer": pb.Answer(status=200, body=b"done", kept=True, size=4, digest=b"x" * 32),
        "at_ms": now,
        "told_at_ms": now,
    }
    return pb.RecordDegradedRequest(**(fields | changes))


async def events(engine: EngineClient) -> list[Any]:
    request = admin_pb2.ListEventsRequest(agent_id="bot-1", limit=100)
    return list((await engine.ask(engine.audit.ListEvents, request)).events)


async def test_a_call_that_is_told_is_priced_by_the_rules_and_recorded_once(engine: EngineClient) -> None:
    policy = admin_pb2.Policy(pricing_rules=[admin_pb2.PricingRule(tool="*", price_micros=2 * PRICE)])
    put = admin_pb2.PutPolicyRequest(agent_id="bot-1", policy=policy)
    await engine.ask(engine.policies.PutPolicy, put)
    request = told(engine)
    taken = [await engine.ask(engine.governance.RecordDegraded, request) for _ in range(3)]
    assert [(t.recorded, t.charged_micros) for t in taken] == [(True, 2 * PRICE), (False, 0), (False, 0)]
    [event] = [event for event in await events(engine) if event.type == "degraded"]
    facts = dict(event.facts)
    assert (facts["outcome"], facts["args_hash"], facts["status"]) == ("SUCCEEDED", (b"d" * 32).hex(), 200)
    assert facts["key_id"].startswith("key_")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"attempt_id": "a:b"}, "attempt_id"),
        ({"credential_digest": b"short"}, "credential_digest"),
        ({"tool": "a}b"}, "tool"),
        ({"call_id": "call_1"}, "call_id"),
        ({"key": "AB" * 32}, "key"),
        ({"key": "ab" * 31 + "}:"}, "key"),
        ({"fingerprint": b""}, "fingerprint"),
        ({"declared_spend_micros": -1}, "declared_spend_micros"),
        ({"declared_spend_micros": 10**13}, "declared_spend_micros"),
        ({"agent_id": "a}b"}, "agent_id"),
        ({"fence": -1}, "fence"),
        ({"outcome": pb.OUTCOME_UNSPECIFIED}, "outcome"),
        ({"reason": "a\nb"}, "reason"),
        ({"at_ms": 0}, "at_ms"),
    ],
)
async def test_what_no_sidecar_would_tell_is_refused_and_leaves_no_trace(
    engine: EngineClient, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InterlockError) as refused:
        await engine.ask(engine.governance.RecordDegraded, told(engine, **changes))
    assert refused.value.metadata["field"] == field
    assert await events(engine) == []


async def test_nobody_but_a_sidecar_tells_and_only_of_agents_that_the_key_could_be(engine: EngineClient) -> None:
    stranger = EngineClient(engine.channel, engine.key, token="not-the-token")
    assert await stranger.refused(stranger.governance.RecordDegraded, told(engine)) == "sidecar_only"
    other = (await engine.new_key(admin_pb2.ROLE_AGENT, "bot-2")).key
    viewer = (await engine.new_key(admin_pb2.ROLE_VIEWER)).key
    record = engine.governance.RecordDegraded
    assert await engine.refused(record, told(engine, other)) == "invalid_request"
    assert await engine.refused(record, told(engine, viewer)) == "invalid_request"
    assert await engine.refused(record, told(engine, "once_live_nobody")) == "key_not_found"
    assert await events(engine) == []


async def test_a_key_that_was_revoked_since_does_not_undo_what_has_happened(engine: EngineClient) -> None:
    made = await engine.new_key(admin_pb2.ROLE_AGENT, "bot-1")
    await engine.ask(engine.keys.RevokeKey, admin_pb2.RevokeKeyRequest(key_id=made.info.key_id))
    await engine.ask(engine.governance.RecordDegraded, told(engine, made.key))
    [event] = await events(engine)
    assert dict(event.facts)["key_revoked"] is True


async def test_a_sidecars_clock_that_is_out_does_not_matter(engine: EngineClient) -> None:
    """Only how long ago it was does."""
    for out_ms in (-400 * DAY_MS, 400 * DAY_MS):
        at = int(time.time() * 1000) + out_ms
        request = told(engine, at_ms=at, told_at_ms=at + 2 * 3_600_000)
        await engine.ask(engine.governance.RecordDegraded, request)
    figures = {}
    for period in ("hour", "day"):
        asked = admin_pb2.GetAgentMetricsRequest(agent_id="bot-1", period=period)
        figures[period] = (await engine.ask(engine.agents.GetAgentMetrics, asked)).total_actions
    assert figures == {"hour": 0, "day": 2}


async def test_a_tool_that_is_gone_does_not_undo_it_either(engine: EngineClient) -> None:
    await engine.ask(engine.tools.DeleteTool, admin_pb2.ToolRef(name="charge"))
    assert (await engine.ask(engine.governance.RecordDegraded, told(engine))).charged_micros == PRICE
