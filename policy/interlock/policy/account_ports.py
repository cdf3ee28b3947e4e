"""The account of a namespace, and what the engine needs to keep it. Errors are those of `ports`."""

from typing import Protocol

from interlock.governance.values import dataclass


@dataclass(frozen=True, slots=True)
class Notifications:
    """What a namespace wants to be told of: tools and runs that fail, and whether by mail, too."""

    email: bool = True
    tool_errors: bool = True
    run_failures: bool = True


@dataclass(frozen=True, slots=True)
class NotificationChanges:
    """Preferences to change; None leaves one as it is."""

    email: bool | None = None
    tool_errors: bool | None = None
    run_failures: bool | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request was counted in, and if not, when there will be room for one."""

    admitted: bool
    retry_after_ms: int = 0


class Requests(Protocol):
    """How many requests namespaces make."""

    async def admit(self, namespace: str, limit: int, attempt: str = "") -> Admission:
        """Counts one request if no 60 seconds on end hold `limit` of them; an attempt that was admitted stays so."""


class Accounts(Protocol):
    """What namespaces want."""

    async def notifications(self, namespace: str) -> Notifications:
        """As they are; what was never set is wanted."""

    async def set_notifications(self, namespace: str, changes: NotificationChanges, *, facts: str) -> Notifications:
        """As they then are; `facts` is a JSON object for the trail."""
