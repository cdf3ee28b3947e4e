"""What the exporter needs of what surrounds it, as small protocols."""

from collections.abc import Sequence
from typing import Protocol

from interlock.governance.errors import ExhaustedError, UnavailableError


class SinkUnavailableError(UnavailableError):
    """A sink did not take a batch, and may later; some of it may have arrived. `retry_after_s` if it said so."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__("sink_unavailable", message)
        self.retry_after_s = retry_after_s


class SinkRefusedError(ExhaustedError):
    """A sink will not take this batch, however often it is sent."""

    def __init__(self, message: str) -> None:
        super().__init__("sink_refused", message)


class Sink(Protocol):
    """Where events go."""

    @property
    def name(self) -> str: ...

    @property
    def batch_max_events(self) -> int: ...

    async def deliver(self, lines: Sequence[bytes]) -> None:
        """Returns when every line is durably there, in this order. Errors: SinkUnavailableError, SinkRefusedError."""

    async def close(self) -> None:
        """Lets go of what the sink holds. It may be delivered to again."""


class Recorder(Protocol):
    """Where figures go. One method an event."""

    def audit_leads(self, *, leads: bool) -> None:
        """The exporter has, or has no longer, the lease."""

    def audit_exported(self, sink: str, events: int, folded: int) -> None:
        """A sink has acknowledged events; in them so many refusals were counted together."""

    def audit_failed(self, sink: str) -> None:
        """A sink did not take a batch and is asked again."""

    def audit_refused(self, sink: str) -> None:
        """A sink will not take an event; its agent's trail waits."""

    def audit_lag(self, sink: str, events: int, seconds: float) -> None:
        """So many events wait for a sink, the oldest of them for so long."""
