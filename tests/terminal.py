"""Commands as a person at a terminal runs them: on a pseudo-terminal of a given size, with keys that are pressed."""

import asyncio
import codecs
import contextlib
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Mapping
from typing import Self

CTRL_C = b"\x03"


class Terminal:
    """`async with Terminal("top", settings=…) as terminal:` runs `interlock top` in it."""

    def __init__(self, *arguments: str, settings: Mapping[str, str], size: tuple[int, int] = (80, 24)) -> None:
        self._arguments = arguments
        self._settings = settings
        self._size = size
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.shown = ""
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._ours, self._theirs = pty.openpty()
        self._before = termios.tcgetattr(self._theirs)
        self.resize(*self._size)
        environment = {**os.environ, "TERM": "xterm-256color", **self._settings}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "interlock.cli.main", *self._arguments),
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={name: value for name, value in environment.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}},
            # A session of its own on this terminal: what is typed here signals it, as in a shell.
            preexec_fn=self._take,
        )
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def settings_as_before(self) -> bool:
        """Whether the line discipline is as it was: echo, and lines by Enter."""
        return termios.tcgetattr(self._theirs) == self._before

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if self.process is not None:
            self.process.send_signal(signal.SIGWINCH)

    async def until(self, text: str, *, after: int = 0) -> int:
        """Waits for a text behind a place in all that was shown. Returns where the text ends."""
        try:
            async with asyncio.timeout(30):
                while (at := self.shown.find(text, after)) < 0:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} was not shown: {self.shown[after:][-3000:]!r}") from None
        return at + len(text)

    async def ended(self) -> int:
        """Its exit code, once all it said has been read."""
        assert self.process is not None
        async with asyncio.timeout(30):
            code = await self.process.wait()
            await asyncio.sleep(0)
        self._read(wait=False)
        return code

    def _take(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell starts what is to run behind it deaf to this
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _read(self, *, wait: bool = True) -> None:
        os.set_blocking(self._ours, wait)
        with contextlib.suppress(OSError):
            self.shown += self._decoder.decode(os.read(self._ours, 1_000_000))
        self._news.set()
