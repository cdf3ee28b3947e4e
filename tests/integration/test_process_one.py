"""Roles as process 1 of a PID namespace with a read-only root, as in a container: signals, and orphans."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.interlock_dev import MASTER_KEY, free_port, until

ALONE = ("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child")
READ_ONLY = 'mount -o remount,bind,ro / && ! touch "$0/written" 2>/dev/null'
"""Fails unless what lies in the folder is on a root that can be made read-only."""


def _allowed() -> bool:
    if not shutil.which("unshare"):
        return False
    words = (*ALONE, "sh", "-c", READ_ONLY, str(Path(__file__).parent))
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _allowed(), reason="no namespaces of PIDs and mounts here: needs root, and unshare")


class Container:
    """An `interlock` role as process 1."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """That of the process whose only child is process 1."""
        return self._process.pid

    def children(self, of: int | None = None) -> list[int]:
        """Those of process 1, ended ones included that nobody asked about."""
        pid = self.first if of is None else of
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @property
    def first(self) -> int:
        """Process 1, by its number outside."""
        return self.children(self.pid)[0]

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self._process.wait()

    async def enter(self, *words: str) -> None:
        """Runs a command in there, as `kubectl exec` would."""
        inside = await asyncio.create_subprocess_exec("nsenter", "--pid", "--target", str(self.first), *words)
        assert await inside.wait() == 0

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


@pytest.fixture
async def containers() -> AsyncIterator[list[Container]]:
    started: list[Container] = []
    yield started
    for each in started:
        each.kill()
        await each.ended()


async def start(containers: list[Container], *arguments: str, **settings: str) -> Container:
    words = (sys.executable, "-m", "interlock.cli.start", *arguments)
    process = await asyncio.create_subprocess_exec(
        *(*ALONE, "sh", "-c", f'{READ_ONLY} && exec "$@"', str(Path(__file__).parent), *words),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **settings},
    )
    containers.append(Container(process))
    return containers[-1]


def _open_files(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # it is just beginning
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.add(str(link.readlink()))
    return found


async def serving(containers: list[Container], redis_url: str) -> Container:
    port = free_port()
    container = await start(
        containers,
        "engine",
        INTERLOCK_REDIS_URL=redis_url,
        INTERLOCK_ENGINE__MASTER_KEY=MASTER_KEY,
        INTERLOCK_ENGINE__SIDECAR_TOKEN="the token of the sidecars",
        INTERLOCK_ENGINE__LISTEN=f"127.0.0.1:{free_port()}",
        INTERLOCK_ENGINE__ADMIN_PORT=str(port),
        INTERLOCK_ENGINE__LOG_LEVEL="error",
    )

    async def ready() -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    await until(ready)
    return container


async def test_process_one_ends_at_sigterm_while_it_still_starts(containers: list[Container], tmp_path: Path) -> None:
    config = tmp_path / "interlock.yaml"
    os.mkfifo(config)
    with config.open("r+b", buffering=0):  # so that it waits for what never comes
        container = await start(containers, "engine", "--config", str(config))

        async def reads() -> bool:
            return any(str(config) in _open_files(first) for first in container.children(container.pid))

        await until(reads)
        os.kill(container.first, signal.SIGTERM)
        assert await container.ended() == 128 + signal.SIGTERM


async def test_process_one_drains_at_sigterm_and_leaves_no_orphan_behind(
    containers: list[Container], redis_url: str
) -> None:
    container = await serving(containers, redis_url)
    await container.enter("sh", "-c", "(sleep 1000 &)")
    [orphan] = container.children()
    os.kill(orphan, signal.SIGKILL)

    async def gone() -> bool:
        return not container.children()

    await until(gone)
    os.kill(container.first, signal.SIGTERM)
    assert await container.ended() == 0
