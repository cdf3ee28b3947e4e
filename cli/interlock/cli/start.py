"""The first lines of the program: how it behaves as process 1 of a container, before the rest is loaded.

The kernel does to process 1 of a PID namespace only what it asks for, and gives it the orphans (pid_namespaces(7)): a
SIGTERM without a handler is ignored, and a child that ended stays until somebody asks how.
"""

import os
import signal
from types import FrameType

KILLED = 128  # and the number of the signal, as a shell would say


def main() -> None:
    """The command line. As process 1 it ends at once by a signal that comes before a role has handlers of its own."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, _end)
    from interlock.cli.main import main as command_line  # noqa: PLC0415 - takes a second, in which signals may come

    command_line()


def leave_no_orphans() -> None:
    """As process 1: children that ended are gone at once. Not for roles that ask their own children how they ended."""
    if os.getpid() == 1:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _end(number: int, _: FrameType | None) -> None:
    os._exit(KILLED + number)


if __name__ == "__main__":
    main()
