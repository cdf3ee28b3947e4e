"""Policies from templates, judged by the engine."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import namespaces_pb2 as ns
from tests.integration.engines import EngineClient, running_engine

PLANS: dict[str, Any] = {"pro": {"features": ["budgets", "blocklist", "per_tool_limits"]}}


@pytest.fixture
async def engines(redis_url: str) -> AsyncIterator[list[EngineClient]]:
    async with running_engine(redis_url, plans=PLANS) as one, running_engine(redis_url, plans=PLANS) as other:
        yield [one, other]


async def set_up(engine: EngineClient, template: str, *overridden: str, **overrides: Any) -> ad.AgentPolicy:
    asked = ad.PutPolicyFromTemplateRequest(
        agent_id="bot-1", template=template, overrides=ad.Policy(**overrides), overridden=overridden
    )
    stored: ad.AgentPolicy = await engine.ask(engine.policies.PutPolicyFromTemplate, asked)
    return stored


async def reason(engine: EngineClient, tool: ad.Tool, call: str) -> str:
    decided = await engine.authorize(call, tool=tool.name, tool_revision=tool.revision, declared_spend_micros=0)
    return str(decided.reason)


async def test_read_only_holds_for_tools_that_are_registered_and_changed_later_at_every_engine(
    engines: list[EngineClient],
) -> None:
    one, other = engines
    await set_up(one, "read_only")
    reader, writer = await one.put_tool("reader", read_only=True), await one.put_tool("writer")
    for engine in engines:
        assert await reason(engine, reader, "a") == "ok"
        assert await reason(engine, writer, "a") == "tool_not_in_allowed_list"
    changed, opened = await other.put_tool("reader"), await other.put_tool("writer", read_only=True)
    for engine in engines:
        assert await reason(engine, changed, "b") == "tool_not_in_allowed_list"
        assert await reason(engine, opened, "b") == "ok"
    refused = await one.authorize("c", tool="reader", tool_revision=changed.revision)
    assert refused.matched_rule == "allow_read_only"


async def test_a_call_to_a_tool_that_is_no_longer_read_only_is_not_renewed(engines: list[EngineClient]) -> None:
    one, other = engines
    await set_up(one, "read_only")
    tool = await one.put_tool("reader", read_only=True)
    running = await one.authorize("long", tool="reader", tool_revision=tool.revision, declared_spend_micros=0)
    await other.put_tool("reader")
    renewed = await one.ask(one.governance.Renew, pb.RenewRequest(permit=running.permit))
    assert (renewed.renewed, renewed.reason) == (False, "tool_not_in_allowed_list")


async def test_what_comes_of_a_template_is_a_policy_like_any_other_and_its_trail_names_the_template(
    engines: list[EngineClient],
) -> None:
    engine = engines[0]
    stored = await set_up(engine, "strict", "allowed_tools", has_allowed_tools=True, allowed_tools=["charge"])
    assert list(stored.policy.allowed_tools) == ["charge"]
    assert (stored.policy.max_actions_per_hour, stored.policy.on_anomaly) == (60, "disable")
    assert await engine.ask(engine.policies.GetPolicy, ad.AgentRef(agent_id="bot-1")) == stored
    asked = ad.ListEventsRequest(agent_id="bot-1")
    (event,) = (await engine.ask(engine.audit.ListEvents, asked)).events
    assert (event.type, event.facts["template"]) == ("policy", "strict")
    assert event.facts["key_id"].startswith("key_")


async def test_a_template_needs_the_features_that_it_uses_and_a_bad_override_changes_nothing(
    engines: list[EngineClient],
) -> None:
    admin = engines[0]
    await admin.ask(admin.namespaces.PutNamespace, ns.PutNamespaceRequest(name="team", plan="pro"))
    operator = admin.speaking_with((await admin.acting_in("team").new_key(ad.ROLE_OPERATOR)).key)
    put = operator.policies.PutPolicyFromTemplate

    def asked(template: str, **fields: Any) -> ad.PutPolicyFromTemplateRequest:
        return ad.PutPolicyFromTemplateRequest(agent_id="bot-1", template=template, **fields)

    for template in ("strict", "read_only", "support_bot"):
        assert await operator.refused(put, asked(template)) == "feature_not_available"
    assert await operator.refused(put, asked("lax")) == "unknown_template"
    bad = ad.Policy(max_actions_per_hour=-1)
    assert await operator.refused(put, asked("moderate", overrides=bad, overridden=["max_actions_per_hour"])) == (
        "invalid_policy"
    )
    assert await operator.refused(operator.policies.GetPolicy, ad.AgentRef(agent_id="bot-1")) == "policy_not_found"
    for template in ("moderate", "permissive"):
        assert (await operator.ask(put, asked(template))).policy.max_actions_per_hour
