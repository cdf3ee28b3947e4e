"""Real `interlock dev` processes."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from interlock.policy.credentials import new_key
from interlock.policy.secrets import generate_key

READY_WITHIN_S = 30
LAST_WORDS_OF_WELCOME = "Ctrl-C lets running calls finish"
ADMIN_KEY = new_key()
MASTER_KEY = generate_key()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = 20) -> None:
    """Waits for what another process does: there is no event for it. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


async def launch(*arguments: str, log: Path, settings: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    """Starts an `interlock` command with these variables; what it says goes to `log`."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "interlock.cli.main", *arguments),
            env={**os.environ, **(settings or {})},
            stdout=output,
            stderr=output,
        )


@dataclass
class InterlockDev:
    """One process, which a test may end and start again on the same ports and data."""

    data_dir: Path
    redis_url: str | None
    settings: Mapping[str, str]
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    key: str = ADMIN_KEY
    process: asyncio.subprocess.Process | None = None
    starts: int = 0

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
            verify=False,  # it speaks plain HTTP, and to load the system's certificates takes as long as 50 calls
            limits=httpx.Limits(max_connections=None),
        )

    async def register(self, url: str, name: str = "charge", **fields: object) -> None:
        """Registers a tool there."""
        async with self.client() as api:
            (await api.post("/v1/tools", json={"name": name, "url": url, **fields})).raise_for_status()

    async def call(self, tool: str = "charge", agent: str = "a1", **arguments: object) -> httpx.Response:
        """One call as this agent, made with the admin's key."""
        async with self.client() as api:
            return await api.post(f"/tools/{tool}", json=arguments, headers={"Interlock-Agent": agent})

    async def start(self) -> None:
        """Returns when it is ready and has said so."""
        self.starts = self._welcomes() + 1
        ports = ("--port", str(self.port), "--admin-port", str(self.admin_port), "--grpc-port", str(self.grpc_port))
        self.process = await launch(
            "dev", "--data-dir", str(self.data_dir), *ports, log=self.log, settings=self._environment()
        )
        try:
            await until(self._ready_or_ended, READY_WITHIN_S)
        except TimeoutError:
            raise RuntimeError(f"interlock dev is not ready: {self.log.read_text()}") from None
        if self.process.returncode is not None:
            raise RuntimeError(f"interlock dev ended with {self.process.returncode}: {self.log.read_text()}")

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        """SIGKILL, which it cannot prepare for."""
        return await self._end(signal.SIGKILL)

    async def ready(self) -> bool:
        """Whether it says so itself."""
        async with httpx.AsyncClient(verify=False) as client:
            try:
                return (await client.get(f"{self.admin_url}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

    async def _ready_or_ended(self) -> bool:
        assert self.process is not None
        return self.process.returncode is not None or (self._welcomes() == self.starts and await self.ready())

    def _welcomes(self) -> int:
        """How often it has welcomed somebody: its ports answer a little earlier."""
        return self.log.read_text(errors="replace").count(LAST_WORDS_OF_WELCOME) if self.log.exists() else 0

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    def _environment(self) -> dict[str, str]:
        named = {"INTERLOCK_REDIS_URL": self.redis_url} if self.redis_url else {}
        keys = {"INTERLOCK_BOOTSTRAP_KEY": self.key, "INTERLOCK_ENGINE__MASTER_KEY": MASTER_KEY}
        return {**keys, **named, **self.settings}
