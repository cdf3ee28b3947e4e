"""What namespaces want to be told of, on every Redis."""

import asyncio

from interlock.policy.account_ports import KindCounts, NotificationChanges, Notifications
from interlock.policy.model import Outcome, Scope
from interlock.store.opening import Store
from tests.conformance.reservations import AGENT, decide, execute


async def test_a_namespace_that_never_said_wants_to_be_told_of_everything(store: Store) -> None:
    assert await store.accounts.notifications("acme") == Notifications(email=True, tool_errors=True, run_failures=True)


async def test_a_month_counts_what_was_let_through_replayed_and_refused_of_every_agent(store: Store) -> None:
    for agent in (AGENT, Scope("acme", "bot-2")):
        await store.directory.see_agent(agent)
    done = await execute(store, "one")
    await store.ledger.settle(done, Outcome.SUCCEEDED, None, "", event="settlement", facts="{}")
    await asyncio.gather(*(decide(store, "one") for _ in range(3)))
    await asyncio.gather(*(decide(store, f"no {n}", rule_reason="tool_explicitly_blocked") for n in range(30)))
    await execute(store, "two")
    counts = await store.accounts.month("acme")
    assert counts.calls == KindCounts(charged=2, requests=35, blocked=30)
    assert (counts.make, counts.leases) == (KindCounts(0, 0, 0), KindCounts(0, 0, 0))
    assert (await store.accounts.month("other")).calls == KindCounts(0, 0, 0)


async def test_preferences_are_changed_one_by_one_and_are_each_namespaces_own(store: Store) -> None:
    changes = [
        NotificationChanges(email=False),
        NotificationChanges(tool_errors=False),
        NotificationChanges(run_failures=False),
    ]
    await asyncio.gather(*(store.accounts.set_notifications("acme", change, facts="{}") for change in changes))
    assert await store.accounts.notifications("acme") == Notifications(
        email=False, tool_errors=False, run_failures=False
    )
    lifted = await store.accounts.set_notifications("acme", NotificationChanges(tool_errors=True), facts="{}")
    assert lifted == await store.accounts.notifications("acme")
    assert lifted == Notifications(email=False, tool_errors=True, run_failures=False)
    assert await store.accounts.notifications("other") == Notifications()


async def test_who_changed_them_stands_in_the_trail_of_the_namespace_and_no_epoch_is_raised(store: Store) -> None:
    before = await store.directory.epochs("acme")
    await store.accounts.set_notifications("acme", NotificationChanges(email=False), facts='{"key_id":"key_1"}')
    (event,) = await store.directory.trail("acme", after_seq=0, limit=10)
    assert (event.type, event.verdict, event.facts) == ("notifications", "SET", {"key_id": "key_1"})
    assert await store.directory.epochs("acme") == before
