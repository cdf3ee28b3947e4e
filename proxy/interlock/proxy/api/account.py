"""`/v1/me` and `/v1/usage`: the account that a key belongs to."""

from typing import Literal

from aiohttp import web
from pydantic_core import to_json

from interlock.governance.v1 import account_pb2 as pb
from interlock.proxy.api.answer import Answer
from interlock.proxy.api.keys import ROLE_NAMES
from interlock.proxy.api.models import NotificationsBody
from interlock.proxy.api.namespaces import Plan
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.queries import UsageQuery
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


class Usage(Answer):
    """What the namespace used of one kind in this month (UTC)."""

    plan: str
    """The name of its plan."""
    month: str
    """YYYY-MM."""
    usage: int
    """What was charged."""
    limit: int | None
    """And may be; null is no limit."""
    requests_total_month: int
    """What was asked for, whatever came of it."""
    blocked_total_month: int
    """And was refused; of check-locks, duplicates are."""


class WholeUsage(Answer):
    """What the namespace used in this month (UTC)."""

    plan: str
    """The name of its plan."""
    month: str
    """YYYY-MM."""
    month_resets_in_s: int
    """Until the next one begins, s."""
    make: Usage
    """Check-locks."""
    ai: Usage
    """Governed calls, leases and runs."""
    requests_total_month: int
    """What was asked for of both."""
    blocked_total_month: int
    """And was refused."""
    charged_total_month: int
    """What was charged of both."""
    polling_total_month: int
    """Leases that were asked for while somebody held the key: they cost nothing."""


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


async def usage(visit: Visit) -> Usage:
    kind = visit.query(UsageQuery).kind
    told = await visit.ask(visit.api.account.GetUsage, pb.GetUsageRequest())
    return _usage_of(told, told.make if kind == "make" else told.ai)


async def usage_all(visit: Visit) -> web.Response:
    told = await visit.ask(visit.api.account.GetUsage, pb.GetUsageRequest())
    make, ai = _usage_of(told, told.make), _usage_of(told, told.ai)
    whole = WholeUsage(
        plan=told.plan,
        month=told.month,
        month_resets_in_s=-(-told.month_resets_in_ms // 1000),
        make=make,
        ai=ai,
        requests_total_month=make.requests_total_month + ai.requests_total_month,
        blocked_total_month=make.blocked_total_month + ai.blocked_total_month,
        charged_total_month=make.usage + ai.usage,
        polling_total_month=told.polling,
    )
    headers = {"X-OnceOnly-Plan": told.plan, "X-OnceOnly-Month": told.month}
    return web.Response(body=to_json(whole), content_type="application/json", charset="utf-8", headers=headers)


def _usage_of(told: pb.AccountUsage, kind: pb.KindUsage) -> Usage:
    return Usage(
        plan=told.plan,
        month=told.month,
        usage=kind.usage,
        limit=kind.limit if kind.HasField("limit") else None,
        requests_total_month=kind.requests,
        blocked_total_month=kind.blocked,
    )


OPERATIONS = (
    Operation(
        "GET", "/v1/usage", usage, "Show usage, of one kind in this month", Usage, query=UsageQuery, role="viewer"
    ),
    Operation(
        "GET",
        "/v1/usage/all",
        usage_all,
        "Show whole usage, of all kinds in this month",
        WholeUsage,
        headers={"X-OnceOnly-Plan": "The plan.", "X-OnceOnly-Month": "The month, `YYYY-MM`."},
        role="viewer",
    ),
    Operation("GET", "/v1/me", me, "Show the account, with its plan and preferences", answer=Account),
    Operation(
        "POST",
        "/v1/me/notifications",
        notify,
        "Set notifications, what the namespace wants to be told of",
        answer=Preferences,
        body=NotificationsBody,
        role="operator",
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
