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


@dataclass(frozen=True, slots=True)
class KindCounts:
    """Of one kind: what was charged, asked for, and refused."""

    charged: int
    requests: int
    blocked: int


@dataclass(frozen=True, slots=True)
class MonthCounts:
    """A month (YYYY-MM, UTC) of a namespace as it was at a time (unix ms).

    `make` are check-locks; `leases` leases and keyed runs, and `polls` of them found the key held. `calls` are the
    governed calls, a replay is asked for and neither charged nor refused. `reserved` is what a plan with a limit has
    counted of leases, runs and calls.
    """

    month: str
    at_ms: int
    make: KindCounts
    leases: KindCounts
    calls: KindCounts
    polls: int
    reserved: int

    def runs(self, *, limited: bool) -> int:
        """Those that are used. What a limit is held to is counted with it; without one, what was charged of each."""
        return self.reserved if limited else self.leases.charged + self.calls.charged


class Accounts(Protocol):
    """What namespaces want, and what they have used."""

    async def month(self, namespace: str) -> MonthCounts:
        """The running one."""

    async def notifications(self, namespace: str) -> Notifications:
        """As they are; what was never set is wanted."""

    async def set_notifications(self, namespace: str, changes: NotificationChanges, *, facts: str) -> Notifications:
        """As they then are; `facts` is a JSON object for the trail."""
