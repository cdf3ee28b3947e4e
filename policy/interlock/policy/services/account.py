"""The Account service."""

import json
from dataclasses import asdict

import structlog

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import account_pb2 as pb
from interlock.governance.v1 import account_pb2_grpc, admin_pb2
from interlock.policy import access
from interlock.policy.account_ports import Accounts, MonthCounts, NotificationChanges, Notifications
from interlock.policy.knowledge import Knowledge
from interlock.policy.model import Role
from interlock.policy.plans import Plan, Plans
from interlock.policy.runs import month_end_ms
from interlock.policy.services.namespaces import plan_message
from interlock.policy.services.rpc import Caller, rpc

log = structlog.get_logger(__name__)


class AccountService(account_pb2_grpc.AccountServicer):
    """What a key's namespace may use, has used, and wants to be told of."""

    def __init__(self, accounts: Accounts, knowledge: Knowledge, plans: Plans) -> None:
        self._accounts = accounts
        self._knowledge = knowledge
        self._plans = plans

    @rpc
    async def GetAccount(self, request: pb.GetAccountRequest, caller: Caller) -> pb.AccountInfo:  # noqa: N802, ARG002 - the contract's name and shape
        identity = await self._knowledge.authenticate(caller.credential)
        namespace = (await self._knowledge.up_to_date(identity.namespace)).namespace
        return pb.AccountInfo(
            namespace=identity.namespace,
            plan=plan_message(self._plans.shown(namespace)),
            notifications=notifications_message(await self._accounts.notifications(identity.namespace)),
            key_id=identity.key_id,
            role=admin_pb2.Role.ValueType(identity.role),
            agent_id=identity.agent_id,
        )

    @rpc
    async def UpdateNotifications(self, request: pb.UpdateNotificationsRequest, caller: Caller) -> pb.Notifications:  # noqa: N802 - the contract's name
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.OPERATOR)
        changes = changes_of(request)
        if changes == NotificationChanges():
            raise InvalidRequestError("invalid_request", "at least one preference is needed")
        told = {name: wanted for name, wanted in asdict(changes).items() if wanted is not None}
        facts = json.dumps({"key_id": identity.key_id, **told})
        wanted = await self._accounts.set_notifications(identity.namespace, changes, facts=facts)
        log.info("notifications.set", namespace=identity.namespace, key_id=identity.key_id, **told)
        return notifications_message(wanted)

    @rpc
    async def GetUsage(self, request: pb.GetUsageRequest, caller: Caller) -> pb.AccountUsage:  # noqa: N802, ARG002 - the contract's name and shape
        identity = await self._knowledge.authenticate(caller.credential)
        access.require(identity, Role.VIEWER)
        namespace = (await self._knowledge.up_to_date(identity.namespace)).namespace
        return usage_message(self._plans.shown(namespace), await self._accounts.month(identity.namespace))


def usage_message(plan: Plan, counts: MonthCounts) -> pb.AccountUsage:
    leases, calls = counts.leases, counts.calls
    return pb.AccountUsage(
        plan=plan.name,
        month=counts.month,
        month_resets_in_ms=month_end_ms(counts.at_ms) - counts.at_ms,
        make=pb.KindUsage(
            usage=counts.make.charged,
            limit=plan.check_locks_per_month,
            requests=counts.make.requests,
            blocked=counts.make.blocked,
        ),
        ai=pb.KindUsage(
            usage=counts.runs(limited=plan.runs_per_month is not None),
            limit=plan.runs_per_month,
            requests=leases.requests + calls.requests,
            blocked=leases.blocked + calls.blocked,
        ),
        polling=counts.polls,
    )


def changes_of(request: pb.UpdateNotificationsRequest) -> NotificationChanges:
    return NotificationChanges(
        email=request.email if request.HasField("email") else None,
        tool_errors=request.tool_errors if request.HasField("tool_errors") else None,
        run_failures=request.run_failures if request.HasField("run_failures") else None,
    )


def notifications_message(wanted: Notifications) -> pb.Notifications:
    return pb.Notifications(email=wanted.email, tool_errors=wanted.tool_errors, run_failures=wanted.run_failures)
