"""Whose key it is, what the plan allows, and what was used of it."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from interlock.client.reading import read, read_object
from interlock.client.request import AsyncGroup, Group, Request, operation


@dataclass(frozen=True, slots=True)
class Me:
    plan: str
    raw: dict[str, Any] = field(default_factory=dict)
    """All that was told."""


@dataclass(frozen=True, slots=True)
class Notifications:
    """Which alerts are sent."""

    email_notifications_enabled: bool
    tool_error_notifications_enabled: bool
    run_failure_notifications_enabled: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used in a month, `YYYY-MM`, of what the plan allows; a `limit` of None is none."""

    plan: str
    month: str
    usage: int
    limit: int | None = None
    requests_total_month: int = 0
    blocked_total_month: int = 0
    raw: dict[str, Any] = field(default_factory=dict)


class AccountOperations:
    """What a namespace knows about itself."""

    @operation
    def me(self) -> Request[Me]:
        return Request("GET", ("me",), lambda answer: read(Me, answer.json))

    @operation
    def update_notifications(
        self, *, email: bool | None = None, tool_errors: bool | None = None, run_failures: bool | None = None
    ) -> Request[Notifications]:
        """Changes what is given, and answers with all."""
        body = {
            "email_notifications_enabled": email,
            "tool_error_notifications_enabled": tool_errors,
            "run_failure_notifications_enabled": run_failures,
        }
        return Request("POST", ("me", "notifications"), lambda answer: read(Notifications, answer.json), body=body)

    @operation
    def usage(self, kind: Literal["make", "ai"] = "make") -> Request[Usage]:
        """`make` counts check-locks, `ai` leases and runs."""
        return Request("GET", ("usage",), lambda answer: read(Usage, answer.json), params={"kind": kind})

    @operation
    def usage_all(self) -> Request[dict[str, Any]]:
        """Both kinds at once."""
        return Request("GET", ("usage", "all"), lambda answer: read_object(answer.json))

    @operation
    def metrics(self, from_day: date, to_day: date) -> Request[Any]:
        """A row for each UTC day of what the namespace did."""
        params = {"from_day": from_day.isoformat(), "to_day": to_day.isoformat()}
        return Request("GET", ("metrics",), lambda answer: answer.json, params=params)


class Account(AccountOperations, Group):
    """`Interlock.account`."""


class AsyncAccount(AccountOperations, AsyncGroup):
    """`AsyncInterlock.account`."""
