"""Circuit breakers: a tool that keeps failing is left alone for a while (M. Nygard, *Release It!*).

What one agent sends may be why a tool fails, so it opens only its own breaker. That a tool cannot be reached at all is
no agent's doing, and holds for all of them.
"""

from collections import OrderedDict

from interlock.governance.v1 import governance_pb2 as pb
from interlock.governance.values import dataclass

MAX_BREAKERS = 4096
_THRESHOLD = 5
_COOLDOWN_S = 5.0


class Breaker:
    """Closed until `threshold` failures in a row, then open; after each cool-down one call is let through as a trial.

    Times are monotonic seconds. A trial that never reports back costs one more cool-down, no more.
    """

    def __init__(self, *, threshold: int = _THRESHOLD, cooldown_s: float = _COOLDOWN_S) -> None:
        self._threshold = threshold
        self._cooldown_s = cooldown_s
        self._failures = 0
        self._next_trial = 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may go out. When open, a yes makes that call the trial."""
        if self._failures < self._threshold:
            return True
        if now < self._next_trial:
            return False
        self._next_trial = now + self._cooldown_s
        return True

    def retry_after_s(self, now: float) -> float:
        """How long until the next trial; 0 when calls are let through."""
        return max(0.0, self._next_trial - now) if self._failures >= self._threshold else 0.0

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, now: float) -> None:
        self._failures += 1
        self._next_trial = now + self._cooldown_s


@dataclass(frozen=True, slots=True)
class CallBreakers:
    """The breakers that a call is held against: of its agent at its tool, and of all agents at that tool."""

    own: Breaker
    shared: Breaker

    def allows(self, now: float) -> bool:
        return self.own.allows(now) and self.shared.allows(now)

    def retry_after_s(self, now: float) -> float:
        return max(self.own.retry_after_s(now), self.shared.retry_after_s(now))

    def connected(self) -> None:
        """The tool was reached, whatever came of it."""
        self.shared.succeeded()

    def answered(self) -> None:
        self.connected()
        self.own.succeeded()

    def failed(self, now: float, *, connecting: bool) -> None:
        """`connecting` says that no connection could be made."""
        (self.shared if connecting else self.own).failed(now)


class Breakers:
    """All breakers of a sidecar."""

    def __init__(self) -> None:
        # Apart: many agents must not make what is known of a tool be forgotten.
        self._own: OrderedDict[tuple[str, ...], Breaker] = OrderedDict()
        self._shared: OrderedDict[tuple[str, ...], Breaker] = OrderedDict()

    def of(self, permit: pb.Permit, tool: pb.ToolRoute) -> CallBreakers:
        # The same name may lead two agents to two places.
        place = (tool.name, tool.url)
        return CallBreakers(
            own=_kept(self._own, (permit.namespace, permit.agent_id, *place)), shared=_kept(self._shared, place)
        )


def _kept(breakers: OrderedDict[tuple[str, ...], Breaker], key: tuple[str, ...]) -> Breaker:
    """The breaker of that key; of too many, the one that was not asked for the longest goes."""
    breaker = breakers.get(key)
    if breaker is not None:
        breakers.move_to_end(key)
        return breaker
    breaker = breakers[key] = Breaker()
    if len(breakers) > MAX_BREAKERS:
        breakers.popitem(last=False)
    return breaker
