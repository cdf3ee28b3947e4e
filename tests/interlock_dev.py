"""Real `interlock dev` processes."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from interlock.policy.credentials import new_key
from interlock.policy.secrets import generate_key

READY_WITHIN_S = 30
ADMIN_KEY = new_key()
MASTER_KEY = generate_key()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class InterlockDev:
    """One process, which a test may end and start again on the same ports and data."""

    data_dir: Path
    redis_url: str | None
    settings: Mapping[str, str]
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    key: str = ADMIN_KEY
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def log(self) -> Path:
        return self.data_dir.with_suffix(".log")

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """Speaks with this key, or with the admin key; an empty one sends none."""
        bearer = self.key if key is None else key
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {bearer}"} if bearer else {},
            timeout=60,
            limits=httpx.Limits(max_connections=None),
        )

    async def start(self) -> None:
        """Returns when it is ready."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "interlock.cli.main", "dev", "--data-dir", str(self.data_dir)),
                *("--port", str(self.port), "--admin-port", str(self.admin_port)),
                env=self._environment(),
                stdout=log,
                stderr=log,
            )
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._until_ready(self.process)
        except TimeoutError:
            raise RuntimeError(f"interlock dev is not ready: {self.log.read_text()}") from None

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        """SIGKILL, which it cannot prepare for."""
        return await self._end(signal.SIGKILL)

    async def ready(self) -> bool:
        """Whether it says so itself."""
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{self.admin_url}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        while not await self.ready():  # another process: there is no event to wait for
            if process.returncode is not None:
                raise RuntimeError(f"interlock dev ended with {process.returncode}: {self.log.read_text()}")
            await asyncio.sleep(0.02)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    def _environment(self) -> dict[str, str]:
        named = {"INTERLOCK_REDIS_URL": self.redis_url} if self.redis_url else {}
        keys = {"INTERLOCK_BOOTSTRAP_KEY": self.key, "INTERLOCK_ENGINE__MASTER_KEY": MASTER_KEY}
        return {**os.environ, **keys, **named, **self.settings}
