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


class Accounts(Protocol):
    """What namespaces want."""

    async def notifications(self, namespace: str) -> Notifications:
        """As they are; what was never set is wanted."""

    async def set_notifications(self, namespace: str, changes: NotificationChanges, *, facts: str) -> Notifications:
        """As they then are; `facts` is a JSON object for the trail."""
