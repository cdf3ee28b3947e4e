"""A circuit breaker: a tool that keeps failing is left alone for a while (M. Nygard, *Release It!*)."""

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
