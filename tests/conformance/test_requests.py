"""Requests a minute, on every Redis: never more than the limit in any 60 seconds."""

import asyncio
from typing import Any

from redis.asyncio import Redis

from interlock.policy.account_ports import Admission
from interlock.store import keys
from interlock.store.opening import Store

AT = keys.of_namespace("acme", "requests")


async def admitted(store: Store, limit: int, *attempts: str) -> list[Admission]:
    return list(await asyncio.gather(*(store.requests.admit("acme", limit, attempt) for attempt in attempts)))


async def aged(raw: Redis, by_s: int) -> None:
    """Has all requests so far been made so much earlier (or, negative, later)."""
    found: dict[Any, Any] = await raw.hgetall(AT)
    await raw.delete(AT)
    await raw.hset(AT, mapping={int(at) - by_s: count for at, count in found.items()})


async def test_of_a_crowd_exactly_as_many_are_admitted_as_the_limit_says(store: Store, raw: Redis) -> None:
    answers = await admitted(store, 37, *[""] * 200)
    assert sum(answer.admitted for answer in answers) == 37
    assert {0 < answer.retry_after_ms <= 61_000 for answer in answers if not answer.admitted} == {True}
    assert sum(int(count) for count in (await raw.hgetall(AT)).values()) == 37
    assert 60_000 < await raw.pttl(AT) <= 62_000
    other = await store.requests.admit("other", 1)
    assert other.admitted


async def test_a_request_makes_room_when_it_is_over_60_seconds_old_and_not_before(store: Store, raw: Redis) -> None:
    await admitted(store, 2, "", "")
    await aged(raw, 60)
    refused = await store.requests.admit("acme", 2)
    assert not refused.admitted
    assert 0 < refused.retry_after_ms <= 1_000
    await aged(raw, 1)
    assert (await store.requests.admit("acme", 2)).admitted
    assert sum(int(count) for count in (await raw.hgetall(AT)).values()) == 1


async def test_what_a_clock_left_in_the_future_is_not_counted_for_hours(store: Store, raw: Redis) -> None:
    await admitted(store, 2, "", "")
    await aged(raw, -3_600)
    assert (await store.requests.admit("acme", 2)).admitted
    assert len(await raw.hgetall(AT)) == 1


async def test_an_attempt_is_counted_once_and_stays_admitted(store: Store, raw: Redis) -> None:
    answers = await admitted(store, 2, *["bot-1:a"] * 20, *["bot-1:b"] * 20, *["bot-1:c"] * 20)
    by_attempt = [{answer.admitted for answer in answers[at : at + 20]} for at in (0, 20, 40)]
    assert sorted(map(list, by_attempt)) == [[False], [True], [True]]
    assert sum(int(count) for count in (await raw.hgetall(AT)).values()) == 2
    remembered = [key async for key in raw.scan_iter("il:{acme}:request:*")]
    assert len(remembered) == 2
    assert 120_000 < await raw.pttl(remembered[0]) <= 130_000
