"""Events in files, one a line: a folder of `audit-<UTC time of its beginning>.jsonl`, the newest of them growing.

Names sort by time. A batch is acknowledged when it is fsynced. A line that a crash has torn is cut off before anything
is written behind it: it was never acknowledged, and comes again. Neither is what went to a file that others removed,
replaced or cut meanwhile: it is written again, to a new one.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from interlock.audit.ports import SinkUnavailableError
from interlock.audit.settings import FileSettings
from interlock.audit.sinks.writer import Writer

log = structlog.get_logger(__name__)

NAME = re.compile(r"audit-(\d{8}T\d{9})Z\.jsonl")
CHUNK = 65_536
CLOSE_WITHIN_S = 2.0


class FileSink:
    """The files of one folder, which a lock keeps for one process."""

    name = "file"
    batch_max_events = 1000

    def __init__(self, settings: FileSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._writer = Writer("audit-file")
        self._lock: int | None = None
        self._file: int | None = None
        self._path = settings.folder
        self._size = 0
        self._begun_ms = 0

    async def deliver(self, lines: Sequence[bytes]) -> None:
        await self._writer.do(lambda: self._append(b"".join(line + b"\n" for line in lines)))

    async def close(self) -> None:
        # A disk that hangs keeps file and lock, and so others from writing beside what may still be written.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._writer.do(self._let_go)

    def _append(self, batch: bytes) -> None:
        try:
            if self._file is None:
                self._open()
            if self._full(len(batch)):
                self._begin()
            self._write(batch)
        except OSError as error:
            # What was written of it is looked at when the file is opened again.
            self._drop_file()
            raise SinkUnavailableError(f"{self._settings.folder}: {error.strerror}") from error

    def _open(self) -> None:
        folder = self._settings.folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken_now = self._lock is None
        if taken_now:
            self._take_lock(folder)
        newest = max((found.name for found in folder.iterdir() if NAME.fullmatch(found.name)), default=None)
        if newest is not None:
            self._path = folder / newest
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            # Of what was taken away a newer one may have been ours.
            self._begun_ms = max(self._begun_ms, _ms_of(newest))
            self._size = self._whole_lines(self._file, newest)
        if newest is None or (taken_now and self._size):
            # Another exporter may have worked meanwhile, in another folder: by their names, files stay in order.
            self._begin()

    def _take_lock(self, folder: Path) -> None:
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise SinkUnavailableError(f"{folder} is in use by another exporter") from error
        self._lock = lock

    def _whole_lines(self, file: int, name: str) -> int:
        """Cuts off what stands behind the last end of a line; the size that remains."""
        size = end = os.fstat(file).st_size
        while end > 0:
            start = max(0, end - CHUNK)
            found = os.pread(file, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            log.warning("audit.torn_line_cut", file=name, bytes=size - end)
            os.ftruncate(file, end)
            os.fsync(file)
        return end

    def _full(self, more: int) -> bool:
        aged = self._now_ms() - self._begun_ms >= self._settings.rotate_s * 1000
        return self._size > 0 and (aged or self._size + more > self._settings.rotate_bytes)

    def _begin(self) -> None:
        """Begins a file, whose name sorts behind every other even if the clock was set back."""
        self._begun_ms = max(self._now_ms(), self._begun_ms + 1)
        self._drop_file()
        self._path = self._settings.folder / f"audit-{_text_of(self._begun_ms)}Z.jsonl"
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._size = 0
        folder = os.open(self._settings.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, batch: bytes) -> None:
        file: Any = self._file
        left = memoryview(batch)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
        self._size += len(batch)
        self._check_place(file)

    def _check_place(self, file: int) -> None:
        """Raises OSError if what was written is not where it will be looked for: then all is begun anew."""
        ours, there = os.fstat(file), None
        with contextlib.suppress(FileNotFoundError):
            there = self._path.stat()
        if there is None or not os.path.samestat(ours, there) or ours.st_size != self._size:
            self._let_go()
            raise OSError(errno.ESTALE, f"{self._path.name} was removed, replaced or cut by somebody else")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _drop_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _let_go(self) -> None:
        self._drop_file()
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)


def _text_of(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y%m%dT%H%M%S") + f"{unix_ms % 1000:03}"


def _ms_of(name: str) -> int:
    match = NAME.fullmatch(name)
    digits = match[1] if match else ""
    begun = datetime.strptime(digits[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return int(begun.timestamp()) * 1000 + int(digits[15:])
