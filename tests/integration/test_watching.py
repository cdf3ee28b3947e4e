"""Real processes on real files: engines that watch a folder, and an apply that is killed in its midst."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from grpc import aio
from redis.asyncio import Redis

from interlock.governance.v1 import admin_pb2 as ad
from tests.conftest import StartDev
from tests.integration.engines import SIDECAR_TOKEN, EngineClient
from tests.interlock_dev import ADMIN_KEY, MASTER_KEY, free_port, launch, until

URL = "https://pay.example/charge"


def manifest(*tools: str, agents: Mapping[str, Any] | None = None) -> str:
    fields = {"url": URL, "auth": {"secret": "env:PAY_SECRET"}}
    return json.dumps({"owner": "team", "tools": dict.fromkeys(tools, fields), "policies": agents or {}})


class WatchingEngine:
    """An `interlock engine` on a folder that is mounted like a ConfigMap."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder / "mounted"
        self.folder.mkdir()
        self.log = folder / "engine.log"
        self.port, self.admin_port = free_port(), free_port()
        self.environment = {
            "INTERLOCK_REDIS_URL": redis_url,
            "INTERLOCK_BOOTSTRAP_KEY": ADMIN_KEY,
            "INTERLOCK_ENGINE__MASTER_KEY": MASTER_KEY,
            "INTERLOCK_ENGINE__SIDECAR_TOKEN": SIDECAR_TOKEN,
            "INTERLOCK_ENGINE__LISTEN": f"127.0.0.1:{self.port}",
            "INTERLOCK_ENGINE__ADMIN_PORT": str(self.admin_port),
            "INTERLOCK_ENGINE__MANIFESTS": str(self.folder),
            "PAY_SECRET": "the-signing-one-Qx7vTz",
        }
        self.versions = 0
        self.process: asyncio.subprocess.Process | None = None

    def mount(self, **files: str) -> None:
        """As the kubelet does it: a folder for the version, and then the link is turned."""
        self.versions += 1
        version = self.folder / f"..version_{self.versions}"
        version.mkdir()
        for name, text in files.items():
            (version / f"{name}.yaml").write_text(text)
            link = self.folder / f"{name}.yaml"
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}.yaml")
        (self.folder / "..data_tmp").symlink_to(version.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")

    async def start(self) -> None:
        self.process = await launch("engine", log=self.log, settings=self.environment)
        await until(self.is_up, 60)

    async def is_up(self) -> bool:
        assert self.process is not None and self.process.returncode is None, self.log.read_text()
        try:
            return (await self.readyz())[0] == 200
        except httpx.TransportError:
            return False

    async def readyz(self) -> tuple[int, dict[str, str]]:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{self.admin_port}/readyz")
        return answer.status_code, answer.json()

    async def metric(self, name: str) -> float:
        async with httpx.AsyncClient() as client:
            lines = (await client.get(f"http://127.0.0.1:{self.admin_port}/metrics")).text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), 60)


@pytest.fixture
async def engine(tmp_path: Path, redis_url: str) -> AsyncIterator[WatchingEngine]:
    watching = WatchingEngine(tmp_path, redis_url)
    yield watching
    await watching.stop()


@pytest.fixture
async def client(engine: WatchingEngine) -> AsyncIterator[EngineClient]:
    async with aio.insecure_channel(f"127.0.0.1:{engine.port}") as channel:
        yield EngineClient(channel, ADMIN_KEY)


async def tools_of(client: EngineClient) -> list[str]:
    return [tool.name for tool in (await client.ask(client.tools.ListTools, ad.ListToolsRequest())).tools]


def holds(client: EngineClient, *names: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await tools_of(client) == [*names]

    return look


async def test_an_engine_makes_what_is_mounted_so_and_a_broken_version_changes_nothing(
    engine: WatchingEngine, client: EngineClient
) -> None:
    engine.mount(a=manifest("one", "two", agents={"bot": {"max_actions_per_hour": 1}}))
    await engine.start()
    assert await engine.readyz() == (200, {"status": "ready", "manifests": "applied"})
    assert await tools_of(client) == ["one", "two"]
    by_hand = ad.PutToolRequest(tool=ad.Tool(name="by-hand", url=URL))
    await client.ask(client.tools.PutTool, by_hand)

    engine.mount(a=manifest("one", "three"))
    await until(holds(client, "by-hand", "one", "three"))
    assert (await client.ask(client.policies.ListPolicies, ad.ListPoliciesRequest())).policies == []

    engine.mount(a=manifest("one")[:-10])
    await until(lambda: _failing(engine))
    assert (await engine.readyz())[0] == 200
    assert await engine.metric("interlock_manifest_errors_total") == 1
    assert await tools_of(client) == ["by-hand", "one", "three"]
    assert "this is no YAML" in engine.log.read_text()

    engine.mount(a=manifest("one"))
    await until(holds(client, "by-hand", "one"))
    assert await engine.metric("interlock_manifest_last_success_timestamp_seconds") > 0
    await engine.stop()
    assert engine.environment["PAY_SECRET"] not in engine.log.read_text()


async def _failing(engine: WatchingEngine) -> bool:
    return (await engine.readyz())[1]["manifests"] == "failing"


async def test_an_engine_that_starts_with_a_broken_version_judges_by_what_was_applied_before(
    engine: WatchingEngine, client: EngineClient
) -> None:
    engine.mount(a=manifest("one"))
    await engine.start()
    await engine.stop()
    engine.mount(a="tools: [")
    await engine.start()
    assert await engine.readyz() == (200, {"status": "ready", "manifests": "failing"})
    assert await tools_of(client) == ["one"]


async def test_a_kill_switch_pulled_by_hand_outlasts_a_restart_of_the_engine_that_watches(
    engine: WatchingEngine, client: EngineClient
) -> None:
    engine.mount(a=json.dumps({"owner": "team", "tools": {"one": {"url": URL, "enabled": True}}}))
    await engine.start()
    await client.ask(client.tools.ToggleTool, ad.ToggleToolRequest(ref=ad.ToolRef(name="one"), enabled=False))
    await engine.stop()
    await engine.start()
    shown = await client.ask(client.tools.GetTool, ad.ToolRef(name="one"))
    assert (shown.enabled, shown.managed_by) == (False, "team")


async def test_dev_watches_too_and_is_ready_with_its_files_applied(tmp_path: Path, interlock_dev: StartDev) -> None:
    file = tmp_path / "tools.yaml"
    file.write_text(json.dumps({"owner": "team", "tools": {"one": {"url": "http://127.0.0.1:9/"}}}))
    dev = await interlock_dev(INTERLOCK_ENGINE__MANIFESTS=json.dumps([str(file)]))
    async with dev.client() as api:
        assert [(tool["name"], tool["managed_by"]) for tool in (await api.get("/v1/tools")).json()] == [("one", "team")]
        own = dev.data_dir / "admin.key"
        secret = {"secret": f"file:{own}"}
        file.write_text(json.dumps({"tools": {"two": {"url": "http://127.0.0.1:9/", "auth": secret}}}))
        await until(lambda: _told(dev.log, "Interlock's own"))
        assert [tool["name"] for tool in (await api.get("/v1/tools")).json()] == ["one"]


async def _told(log: Path, text: str) -> bool:
    return text in await asyncio.to_thread(log.read_text)


async def test_an_apply_killed_in_its_midst_is_finished_by_the_next_one(
    tmp_path: Path, interlock_dev: StartDev, redis_url: str
) -> None:
    """The process that writes is killed at different moments: what it has written is good, and the rest follows."""
    tools = {f"t{n}": {"url": "http://127.0.0.1:9/"} for n in range(20)}
    policies = {f"p{n:03}": {"max_actions_per_hour": n} for n in range(150)}
    file = tmp_path / "tools.yaml"
    file.write_text(json.dumps({"owner": "team", "tools": tools, "policies": policies}))
    dev = await interlock_dev(redis_url)
    access = {"INTERLOCK_BASE_URL": dev.url, "INTERLOCK_API_KEY": dev.key, "PATH": "/usr/bin:/bin"}

    async def apply() -> tuple[int, Any]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "interlock.cli.main", "apply", "-f", str(file), "--json"),
            env=access,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 90)
        return process.returncode or 0, json.loads(out) if out else err.decode()

    async with Redis.from_url(redis_url) as raw:
        applying = asyncio.create_task(apply())
        await until(lambda: _has_policies(raw, 20), 60)
        await dev.kill()
        code, told = await applying
        assert code == 3, told
        assert not await raw.exists("il:{default}:tools")
        await dev.start()
        code, told = await apply()
        assert code == 0, told
        done = [change["action"] for change in told["changes"]]
        assert {*done} == {"create", "unchanged"}
        assert done.count("unchanged") >= 20
        assert await raw.hlen("il:{default}:tools") == 40
        assert {change["action"] for change in (await apply())[1]["changes"]} == {"unchanged"}


async def _has_policies(raw: Redis, count: int) -> bool:
    return len(await raw.keys("il:{default:p*}:config")) >= count
