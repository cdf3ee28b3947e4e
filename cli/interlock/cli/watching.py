"""The manifests that an engine watches: applied when it starts, and again whenever they change.

What is there is read twice a second and acted on once it was the same twice: so it makes no difference how it changes
(an editor that renames over a file, a ConfigMap whose link is turned, a network drive that tells nobody), and a file
that is being written is not taken for a shorter one. Files that cannot be applied change nothing: what was applied last
holds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from interlock.cli import manifest
from interlock.cli.configuration import Configuration
from interlock.cli.problems import ConfigurationError
from interlock.cli.references import References, digest_of
from interlock.governance.errors import InterlockError, UnavailableError
from interlock.governance.tasks import end
from interlock.governance.v1 import configuration_pb2 as pb
from interlock.policy.engine import Engine
from interlock.proxy.admin import Ready
from interlock.proxy.api.apply import Change, apply_request
from interlock.proxy.metrics import Metrics

POLL_S = 0.5
RETRY_S = 5.0
REFUSED_RETRY_S = 60.0
"""What the engine refuses, because another owner manages it or a plan has no room, may be taken later on."""
FIRST_LOOK_S = 30.0

PENDING, APPLIED, FAILING = "pending", "applied", "failing"

log = structlog.get_logger(__name__)

Apply = Callable[[pb.ApplyRequest], Awaitable[pb.ApplyResponse]]


class Watcher:
    """Watches paths and applies what is there. `state` is pending, applied or failing."""

    def __init__(
        self,
        paths: Sequence[Path],
        apply: Apply,
        metrics: Metrics,
        *,
        allow_loopback: bool = False,
        own: Iterable[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`own` are Interlock's files, which no reference may lead to."""
        self._paths = paths
        self._apply = apply
        self._metrics = metrics
        self._allow_loopback = allow_loopback
        self._own = tuple(own)
        self._clock = clock
        self._references: frozenset[Path] = frozenset()
        self._before: Mapping[Path, str] | None = None
        self._done: Mapping[Path, str] | None = None
        self._again_at = float("inf")
        self.state = PENDING
        self.looked = asyncio.Event()

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong with files, the next ones are looked at
                # Its text may quote a file: the name of what went wrong has to do.
                self._failed("unexpected", type(error).__name__)
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Applies what is there if it has changed, and has come to rest."""
        contents = await asyncio.to_thread(self._read)
        seen = {**{file: digest_of(found) for file, found in contents.items()}, **self._referenced()}
        moving = seen != self._before
        self._before = seen
        if moving or (seen == self._done and self._clock() < self._again_at):
            return
        self._done, self._again_at = seen, self._clock() + RETRY_S
        references = References(own=self._own)
        await self._take(contents, references)
        self._references = frozenset(references.digests)
        self._done = self._before = {
            **{file: digest_of(found) for file, found in contents.items()},
            **references.digests,
        }

    async def _take(self, contents: Mapping[Path, bytes | OSError], references: References) -> None:
        try:
            loaded = await asyncio.to_thread(self._load, contents, references)
            answers = [await self._apply(apply_request(body)) for body in loaded.bodies.values()]
        except ConfigurationError as error:
            self._again_at = float("inf")
            self._failed("invalid", error.message)
        except UnavailableError as error:
            self._failed(error.reason, error.message, conclusive=False)
        except InterlockError as error:
            self._again_at = self._clock() + REFUSED_RETRY_S
            self._failed(error.reason, error.message)
        else:
            self._again_at = float("inf")
            for warning in loaded.warnings:
                log.warning("manifest.warning", where=str(warning.place), key=warning.key, warning=warning.message)
            self._succeeded(loaded.owner, [change for answer in answers for change in answer.changes])

    def _load(self, contents: Mapping[Path, bytes | OSError], references: References) -> manifest.Loaded:
        return manifest.load(
            [*contents],
            references=references,
            allow_loopback=self._allow_loopback,
            read=lambda file: _given(contents[file]),
        )

    def _read(self) -> dict[Path, bytes | OSError]:
        """What each file holds, or why that cannot be told; a folder without files stands for itself."""
        found: dict[Path, bytes | OSError] = {}
        for path in self._paths:
            try:
                files = [*manifest.files_of([path])] or [path]
            except OSError as error:
                found[path] = error
                continue
            for file in files:
                try:
                    found[file] = manifest.read_file(file)
                except OSError as error:
                    found[file] = error
        return found

    def _referenced(self) -> dict[Path, str]:
        return {file: References.digest(file) for file in self._references}

    def _succeeded(self, owner: str, changes: Sequence[pb.Change]) -> None:
        told = [Change.of(change).model_dump(exclude_unset=True) for change in changes]
        count = {action: sum(change["action"] == action for change in told) for action in ("create", "update", "adopt")}
        deleted = sum(change["action"] == "delete" for change in told)
        log.info("manifest.applied", owner=owner, of=len(told), delete=deleted, **count)
        self.state = APPLIED
        self.looked.set()
        self._metrics.manifest_applied(time.time())

    def _failed(self, reason: str, message: str, *, conclusive: bool = True) -> None:
        log.error("manifest.failed", reason=reason, error=message)
        self._metrics.manifest_failed()
        if conclusive:
            self.state = FAILING
            self.looked.set()


class Looked:
    """Ready once the manifests were applied, or found to be what cannot be: then what was applied last holds."""

    def __init__(self, watcher: Watcher, readiness: Ready) -> None:
        self._watcher = watcher
        self._readiness = readiness

    async def why_not(self) -> str:
        why_not = await self._readiness.why_not()
        return why_not or ("manifests_pending" if self._watcher.state == PENDING else "")


def _given(found: bytes | OSError) -> bytes:
    if isinstance(found, OSError):
        raise found
    return found


@asynccontextmanager
async def watching(
    configuration: Configuration, engine: Engine, metrics: Metrics, *own: Path
) -> AsyncIterator[Watcher | None]:
    """Watches what `engine.manifests` names while the context is open; None if it names nothing."""
    settings = configuration.engine
    if not settings.manifests:
        yield None
        return
    watcher = Watcher(
        settings.manifests,
        engine.apply,
        metrics,
        allow_loopback=settings.allow_loopback_tools,
        own=[*own_files(configuration), *own],
    )
    task = asyncio.create_task(watcher.watch())
    try:
        yield watcher
    finally:
        await end(task)


def own_files(configuration: Configuration) -> list[Path]:
    """The keys that this configuration names."""
    engine, link = configuration.engine, configuration.sidecar.engine
    named = [
        engine.master_key_file,
        engine.tls.key_file if engine.tls else None,
        link.tls.key_file if link.tls else None,
        configuration.redis.tls_key_file,
        configuration.audit.signing_key_file,
    ]
    return [Path(file) for file in named if file is not None]
