"""What the engine could not be told: settlements, and calls that went through unjudged. Kept durably, one file each,
until the engine has them.

A file is written, flushed to the disk and then renamed into place, so it is there whole or not at all; the folder is
flushed too. Both are idempotent, and a settlement is fenced, so delivering one twice, or late, does no harm.
"""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import structlog
from google.protobuf.message import DecodeError

from interlock.governance.errors import InterlockError, Kind, UnavailableError
from interlock.governance.tasks import end
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.metrics import Metrics
from interlock.proxy.outcomes import full_jitter

log = structlog.get_logger()

Kept: TypeAlias = pb.SettleRequest | pb.RecordDegradedRequest

KINDS: dict[str, type[Kept]] = {".settlement": pb.SettleRequest, ".degraded": pb.RecordDegradedRequest}
PART = ".part"
REJECTED = "rejected"
PASSING = frozenset({Kind.INTERNAL, Kind.EXHAUSTED, Kind.UNAUTHENTICATED, Kind.DENIED})
"""Failures that may pass: among them a wrong sidecar token, which is no fault of the settlement."""

Deliver = Callable[[Kept], Awaitable[object]]


class Spool:
    """The folder of what is not delivered, and the task that delivers it, oldest first."""

    def __init__(self, folder: Path, deliver: Deliver, metrics: Metrics) -> None:
        self._folder = folder
        self._deliver = deliver
        self._metrics = metrics
        self._waiting: dict[str, Kept] = {}
        self._work = asyncio.Event()
        self._delivering = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the folder, takes up what a former process left, and begins to deliver."""
        await asyncio.to_thread(self._open)
        self._task = asyncio.create_task(self._run(), name="spool")

    async def close(self) -> None:
        """Stops delivering; what is left stays on disk."""
        await end(self._task)

    async def keep(self, kept: Kept) -> None:
        """Returns once it is on the disk, in place of what `begin` put there; it is delivered later.

        A disk that fails is logged, not raised: it is then delivered from memory, and lost only if this process dies
        first.
        """
        name = _file_name(kept)
        try:
            await asyncio.to_thread(self._write, name, kept.SerializeToString())
        except OSError as error:
            log.error("spool.write_failed", call_id=_call_id(kept), error=str(error))  # noqa: TRY400 - the message says it all
        self._add(name, kept)

    async def begin(self, record: pb.RecordDegradedRequest) -> None:
        """Returns once it is on the disk. It is delivered when `keep` has replaced it, or by the next process.

        Errors: OSError if the disk fails.
        """
        await asyncio.to_thread(self._write, _file_name(record), record.SerializeToString())

    def kept_under(self, key: str) -> Kept | None:
        """What waits for delivery of the call of that key; of several the last one."""
        found = [kept for kept in self._waiting.values() if _key(kept) == key]
        return found[-1] if found else None

    async def clear(self) -> None:
        """Delivers what waits, as far as it can be. Errors: UnavailableError while the engine cannot be had.

        To be called before anything new is asked: a call whose success the engine does not know yet must not be
        judged, for its lease may have run out meanwhile.
        """
        if self._waiting:
            await self._deliver_all()

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        files = [path for path in self._folder.iterdir() if path.is_file()]  # nothing else is ours, whatever its name
        for unfinished in (path for path in files if path.suffix == PART):
            unfinished.unlink(missing_ok=True)  # its process died in writing it, and told nobody of it
        left = [path for path in files if path.suffix in KINDS]
        for path in sorted(left, key=lambda path: path.stat().st_mtime):
            try:
                self._waiting[path.name] = KINDS[path.suffix].FromString(path.read_bytes())
            except DecodeError:
                self._set_aside(path.name, f"it is no {path.suffix[1:]}")
            except OSError as error:
                log.error("spool.read_failed", file=str(path), error=str(error))  # noqa: TRY400 - the message says it all

    def _write(self, name: str, content: bytes) -> None:
        part = self._folder / f"{name}{PART}"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._folder / name)
        _sync_folder(self._folder)

    def _add(self, name: str, kept: Kept) -> None:
        self._waiting[name] = kept
        self._metrics.spool_depth(len(self._waiting))
        self._work.set()

    async def _run(self) -> None:
        self._metrics.spool_depth(len(self._waiting))
        failures = 0
        while True:
            if await self._delivered_all():
                failures = 0
                await self._until_work()
            else:
                failures += 1
                # Jittered: sidecars that lost their engine together shall not come back together.
                await asyncio.sleep(full_jitter(failures))

    async def _until_work(self) -> None:
        self._work.clear()
        if not self._waiting:
            await self._work.wait()

    async def _delivered_all(self) -> bool:
        """False if some of it has to be tried again."""
        try:
            await self._deliver_all()
        except UnavailableError:
            return False
        return not self._waiting

    async def _deliver_all(self) -> None:
        """Delivers what waits, in order, and keeps what may be taken another time. Errors: UnavailableError."""
        async with self._delivering:
            for name, kept in list(self._waiting.items()):
                if await self._taken(name, kept):
                    del self._waiting[name]
                    self._metrics.spool_depth(len(self._waiting))

    async def _taken(self, name: str, kept: Kept) -> bool:
        """Whether it is off our hands. Errors: UnavailableError."""
        try:
            await self._deliver(kept)
        except UnavailableError:
            raise
        except InterlockError as error:
            log.warning("spool.not_taken", kind=_noun(kept), call_id=_call_id(kept), reason=error.reason)
            if error.kind in PASSING:
                return False
            await asyncio.to_thread(self._set_aside, name, error.reason)
        except Exception:
            # A bug of ours may hold up this one, but neither the others nor the calls that wait for them.
            log.exception("spool.failed", kind=_noun(kept), call_id=_call_id(kept))
            return False
        else:
            log.info("spool.delivered", kind=_noun(kept), call_id=_call_id(kept))
            await asyncio.to_thread(self._remove, name)
        return True

    def _remove(self, name: str) -> None:
        """A file that stays is delivered again by the next process, which does no harm."""
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            log.error("spool.remove_failed", file=name, error=str(error))  # noqa: TRY400 - the message says it all

    def _set_aside(self, name: str, why: str) -> None:
        """Moves a file that can never be delivered out of the way of the others, for a person to look at."""
        rejected = self._folder / REJECTED
        try:
            rejected.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).rename(rejected / name)
        except OSError as error:
            log.error("spool.set_aside_failed", file=name, why=why, error=str(error))  # noqa: TRY400 - as above
        else:
            log.error("spool.set_aside", file=str(rejected / name), why=why)


def _file_name(kept: Kept) -> str:
    """A call that went through unjudged has one file, from its beginning to its end."""
    if isinstance(kept, pb.RecordDegradedRequest):
        return f"{kept.call_id}.degraded"
    return f"{kept.permit.call_id}-{uuid.uuid4().hex}.settlement"


def _call_id(kept: Kept) -> str:
    return kept.permit.call_id if isinstance(kept, pb.SettleRequest) else kept.call_id


def _key(kept: Kept) -> str:
    return kept.permit.key if isinstance(kept, pb.SettleRequest) else kept.key


def _noun(kept: Kept) -> str:
    """What it is called in the log."""
    return "settlement" if isinstance(kept, pb.SettleRequest) else "degraded_call"


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable: without it a crash may forget the new name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
