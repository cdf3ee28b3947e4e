"""Events on standard output, one a line: what a container's platform collects.

Acknowledged is what the pipe has taken; what its reader loses after that, no exporter can know.
"""

import os
from collections.abc import Sequence

from interlock.audit.ports import SinkUnavailableError
from interlock.audit.sinks.writer import Writer

STDOUT = 1


class StdoutSink:
    """Standard output."""

    name = "stdout"
    batch_max_events = 500

    def __init__(self, descriptor: int = STDOUT) -> None:
        self._descriptor = descriptor
        self._writer = Writer("audit-stdout")
        self._torn = False

    async def deliver(self, lines: Sequence[bytes]) -> None:
        await self._writer.do(lambda: self._write(lines))

    async def close(self) -> None:
        pass

    def _write(self, lines: Sequence[bytes]) -> None:
        left = memoryview((b"\n" if self._torn else b"") + b"".join(line + b"\n" for line in lines))
        try:
            while left:
                written = os.write(self._descriptor, left)
                self._torn = left[written - 1] != ord("\n")
                left = left[written:]
        except OSError as error:
            raise SinkUnavailableError(f"standard output: {error.strerror}") from error
