"""What namespaces want to be told of, on every Redis."""

import asyncio

from interlock.policy.account_ports import NotificationChanges, Notifications
from interlock.store.opening import Store


async def test_a_namespace_that_never_said_wants_to_be_told_of_everything(store: Store) -> None:
    assert await store.accounts.notifications("acme") == Notifications(email=True, tool_errors=True, run_failures=True)


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
