"""How soon what is changed at one engine is known at another: at once if told, at the next decision in any case."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from interlock.governance.v1 import admin_pb2 as ad
from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.v1 import namespaces_pb2 as ns
from tests.integration.engines import EngineClient, Noting, running_engine

CHANGES = 20


@dataclass
class Pair:
    """Two engines on one Redis, both of which know the namespace."""

    here: EngineClient
    there: EngineClient
    noted_here: Noting
    noted_there: Noting


@pytest.fixture
async def pair(redis_url: str) -> AsyncIterator[Pair]:
    one, two = Noting(), Noting()
    async with running_engine(redis_url, one) as here, running_engine(redis_url, two) as there:
        await here.put_tool()
        await here.authorize("a first look", agent_id="bot-9")
        await there.authorize("a first look, too", agent_id="bot-9")
        yield Pair(here, there, one, two)


def switch(scope: str, *, pulled: bool) -> ad.SetSwitchRequest:
    return ad.SetSwitchRequest(scope=scope, pulled=pulled)


@pytest.mark.parametrize("scope", ["global", "namespace"])
async def test_an_idle_engine_knows_of_a_switch_without_being_asked_anything(pair: Pair, scope: str) -> None:
    taken: list[float] = []
    async with asyncio.timeout(20):
        for change in range(CHANGES):
            await pair.here.ask(pair.here.switches.SetSwitch, switch(scope, pulled=change % 2 == 0))
            for noted in (pair.noted_here, pair.noted_there):
                known, seconds = await noted.known.get()
                assert known == scope
                taken.append(seconds)
    assert all(0 <= seconds < 20 for seconds in taken)
    assert pair.noted_here.known.empty()
    assert pair.noted_there.known.empty()


async def test_without_a_word_the_next_decision_knows_all_the_same(pair: Pair, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as raw:
        for change in range(10):
            pulled = change % 2 == 0
            await raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await pair.here.ask(pair.here.switches.SetSwitch, switch("namespace", pulled=pulled))
            answer = await pair.there.authorize(f"call {change}")
            assert answer.reason == ("kill_switch" if pulled else "ok")
        async with asyncio.timeout(20):
            await pair.noted_there.known.get()


async def test_what_was_changed_while_nobody_listened_is_known_when_somebody_does(pair: Pair, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as raw:
        await raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await pair.here.ask(pair.here.switches.SetSwitch, switch("namespace", pulled=True))
    async with asyncio.timeout(20):
        assert (await pair.noted_there.known.get())[0] == "namespace"


async def test_a_namespace_nobody_asked_about_is_not_read(pair: Pair) -> None:
    put = ns.PutNamespaceRequest(name="team-a")
    before = pair.noted_there.asked["snapshot"]
    await pair.here.ask(pair.here.namespaces.PutNamespace, put)
    # The switch is told of after it: once that is known, the other was passed over.
    await pair.here.ask(pair.here.switches.SetSwitch, switch("namespace", pulled=True))
    async with asyncio.timeout(20):
        await pair.noted_there.known.get()
    assert pair.noted_there.asked["snapshot"] <= before + 2  # two commands a reading


async def test_many_first_calls_read_a_namespace_once(redis_url: str) -> None:
    noting = Noting()
    async with running_engine(redis_url) as other:
        await other.put_tool()
    async with running_engine(redis_url, noting) as engine:
        answers = await asyncio.gather(*(engine.authorize(f"call {number}") for number in range(16)))
        assert {answer.verdict for answer in answers} == {pb.VERDICT_EXECUTE}
        assert noting.asked["snapshot"] == 2  # two commands a reading


async def test_who_comes_after_a_change_is_not_content_with_a_reading_begun_before_it(pair: Pair) -> None:
    """Under a load of reads and changes every call is judged by what held when it was asked."""
    for change in range(30):
        pulled = change % 2 == 0
        busy = [asyncio.create_task(pair.there.authorize(f"busy {change} {number}")) for number in range(8)]
        await pair.here.ask(pair.here.switches.SetSwitch, switch("namespace", pulled=pulled))
        after = await asyncio.gather(*(pair.there.authorize(f"after {change} {number}") for number in range(4)))
        assert {answer.reason for answer in after} == {"kill_switch" if pulled else "ok"}
        await asyncio.gather(*busy)


async def test_a_revoked_key_ends_what_was_let_through_under_it_on_every_engine(pair: Pair) -> None:
    made = await pair.here.new_key(ad.ROLE_AGENT, "bot-1")
    other = await pair.here.new_key(ad.ROLE_AGENT, "bot-2")
    agent = pair.there.speaking_with(made.key)
    permit = (await agent.authorize(agent_id="")).permit

    async def renewed(credential: str) -> str:
        request = pb.RenewRequest(permit=permit, credential=credential)
        answer = await pair.there.ask(pair.there.governance.Renew, request)
        assert answer.renewed == (not answer.reason)
        return str(answer.reason)

    assert [await renewed(key) for key in (made.key, "", pair.there.key)] == ["", "", ""]
    assert [await renewed(key) for key in (other.key, "once_live_" + "a" * 43, "x")] == ["invalid_key"] * 3
    await pair.here.ask(pair.here.keys.RevokeKey, ad.RevokeKeyRequest(key_id=made.info.key_id))
    assert [await renewed(key) for key in (made.key, "", pair.there.key)] == ["invalid_key", "", ""]


async def test_a_key_of_another_namespace_prolongs_nothing(pair: Pair) -> None:
    await pair.here.ask(pair.here.namespaces.PutNamespace, ns.PutNamespaceRequest(name="team-a"))
    operator = await pair.here.acting_in("team-a").new_key(ad.ROLE_OPERATOR)
    permit = (await pair.there.authorize()).permit
    request = pb.RenewRequest(permit=permit, credential=operator.key)
    assert (await pair.there.ask(pair.there.governance.Renew, request)).reason == "invalid_key"
