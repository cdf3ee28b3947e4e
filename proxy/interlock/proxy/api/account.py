"""`/v1/me` and `/v1/usage`: the account that a key belongs to."""

from typing import Literal

from interlock.governance.v1 import account_pb2 as pb
from interlock.proxy.api.answer import Answer
from interlock.proxy.api.keys import ROLE_NAMES
from interlock.proxy.api.models import NotificationsBody
from interlock.proxy.api.namespaces import Plan
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.visit import Visit


class Preferences(Answer):
    """What the namespace wants to be told of."""

    email_notifications_enabled: bool
    """By mail, too, where mail is set up."""
    tool_error_notifications_enabled: bool
    """Tools that fail."""
    run_failure_notifications_enabled: bool
    """Runs that fail."""


class Account(Preferences):
    """The account that a key belongs to."""

    namespace: str
    """Whose it is."""
    plan: str
    """The name of its plan."""
    limits: Plan
    """What that allows."""
    key_id: str
    """The key that asked."""
    role: Literal["agent", "viewer", "operator", "admin"]
    """What that key may do."""
    agent_id: str | None
    """The agent that it is bound to, if any."""


async def me(visit: Visit) -> Account:
    return account_of(await visit.ask(visit.api.account.GetAccount, pb.GetAccountRequest()))


async def notify(visit: Visit) -> Preferences:
    body = await visit.body(NotificationsBody)
    asked = pb.UpdateNotificationsRequest(
        email=body.email_notifications_enabled,
        tool_errors=body.tool_error_notifications_enabled,
        run_failures=body.run_failure_notifications_enabled,
    )
    return Preferences(**_preferences(await visit.ask(visit.api.account.UpdateNotifications, asked)))


OPERATIONS = (
    Operation("GET", "/v1/me", me, "Show whose a key is, with its plan and preferences", answer=Account),
    Operation(
        "POST",
        "/v1/me/notifications",
        notify,
        "Change what the namespace wants to be told of",
        answer=Preferences,
        body=NotificationsBody,
    ),
)


def account_of(account: pb.AccountInfo) -> Account:
    return Account(
        namespace=account.namespace,
        plan=account.plan.name,
        limits=Plan.of(account.plan),
        key_id=account.key_id,
        role=ROLE_NAMES[account.role],
        agent_id=account.agent_id or None,
        **_preferences(account.notifications),
    )


def _preferences(wanted: pb.Notifications) -> dict[str, bool]:
    return {
        "email_notifications_enabled": wanted.email,
        "tool_error_notifications_enabled": wanted.tool_errors,
        "run_failure_notifications_enabled": wanted.run_failures,
    }
