"""`interlock dev` as a process: what it prints, what it keeps, how it ends, and how it says that it cannot start."""

import asyncio
import os
import re
import signal
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import httpx

from interlock.policy.credentials import new_key
from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev, launch, until
from tests.tool import Tool, answers, never_answers, waits_for


async def ended(*arguments: str, log: Path, settings: Mapping[str, str] | None = None) -> tuple[int, list[str]]:
    """The exit code of a command that ends by itself, and all it said."""
    process = await launch(*arguments, log=log, settings=settings)
    async with asyncio.timeout(30):
        code = await process.wait()
    return code, said(log)


def said(log: Path) -> list[str]:
    return log.read_text().splitlines()


async def until_not_ready(dev: InterlockDev) -> None:
    async def refused() -> bool:
        return not await dev.ready()

    await until(refused)


async def test_it_prints_its_urls_and_an_admin_key_that_works(interlock_dev: StartDev, tool: Tool) -> None:
    dev = await interlock_dev(INTERLOCK_BOOTSTRAP_KEY="")
    welcome = dev.log.read_text()
    key = re.search(r"admin key  (once_live_\w{43})$", welcome, re.MULTILINE)
    assert key is not None
    assert f"{dev.url}/tools/TOOL  and  {dev.url}/v1" in welcome
    assert dev.admin_url in welcome
    dev.key = key[1]
    await dev.register(tool.url)
    answer = await dev.call(order=1)
    assert (answer.status_code, answer.json()) == (200, {"calls": 1})
    kept = dev.data_dir / "admin.key"
    assert (kept.read_text().strip(), stat.S_IMODE(kept.stat().st_mode)) == (dev.key, 0o600)


async def test_a_start_on_the_same_data_knows_key_tool_and_answer(interlock_dev: StartDev, tool: Tool) -> None:
    dev = await interlock_dev(INTERLOCK_BOOTSTRAP_KEY="", INTERLOCK_ENGINE__MASTER_KEY="")
    dev.key = (dev.data_dir / "admin.key").read_text().strip()
    await dev.register(tool.url, auth={"type": "hmac_sha256", "secret": "a secret of the tool"})
    first = await dev.call(order=1)
    assert await dev.stop() == 0
    await dev.start()
    again, other = await dev.call(order=1), await dev.call(order=2)
    assert (again.headers["Interlock-Decision"], again.content) == ("dedup", first.content)
    assert (other.headers["Interlock-Decision"], other.json()) == ("executed", {"calls": 2})
    assert all(received.header("X-OnceOnly-Signature") for received in tool.received)


async def test_a_revoked_bootstrap_key_stays_revoked(interlock_dev: StartDev) -> None:
    key = new_key()
    dev = await interlock_dev(INTERLOCK_BOOTSTRAP_KEY=key)
    async with dev.client(key) as api:
        made = (await api.post("/v1/keys", json={"role": "admin"})).json()
        [bootstrap] = [key for key in (await api.get("/v1/keys")).json() if key["label"] == "bootstrap"]
        assert (await api.delete(f"/v1/keys/{bootstrap['key_id']}")).status_code == 200
    assert await dev.stop() == 0
    await dev.start()
    async with dev.client(key) as revoked, dev.client(made["key"]) as other:
        assert (await revoked.get("/v1/tools")).status_code == 403
        assert (await other.get("/v1/tools")).status_code == 200
    assert "admin key  revoked" in dev.log.read_text()


async def test_its_own_redis_comes_back_after_a_crash_with_all_it_knew(interlock_dev: StartDev, tool: Tool) -> None:
    dev = await interlock_dev()
    await dev.register(tool.url)
    assert (await dev.call(order=1)).headers["Interlock-Decision"] == "executed"
    os.kill(int((dev.data_dir / "redis" / "redis.pid").read_text()), signal.SIGKILL)

    async def answers_again() -> bool:
        answer = await dev.call(order=1)
        assert answer.headers["Interlock-Decision"] in {"error", "dedup"}
        return answer.status_code == 200

    await until(answers_again)
    assert (await dev.call(order=2)).json() == {"calls": 2}
    assert '"event":"redis.restarted"' in dev.log.read_text()


async def test_sigterm_lets_a_running_call_finish_and_takes_no_new_one(interlock_dev: StartDev, tool: Tool) -> None:
    dev = await interlock_dev()
    await dev.register(tool.url)
    may_answer = asyncio.Event()
    tool.does(waits_for(may_answer, answers(body=b'{"finished": true}')))
    running = asyncio.create_task(dev.call(order=1))
    await tool.until_received(1)
    assert dev.process is not None
    dev.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        await until_not_ready(dev)
        refused = await dev.call(order=2)
        assert (refused.status_code, refused.json()["reason"]) == (503, "draining")
        may_answer.set()
        assert (await running).json() == {"finished": True}
        assert await dev.process.wait() == 0
    assert len(tool.received) == 1


async def test_a_drain_ends_with_its_grace_even_if_a_call_does_not(interlock_dev: StartDev, tool: Tool) -> None:
    dev = await interlock_dev(INTERLOCK_SIDECAR__DRAIN_GRACE_MS="300")
    await dev.register(tool.url)
    tool.does(never_answers())
    running = asyncio.create_task(dev.call(order=1))
    await tool.until_received(1)
    assert await dev.stop() == 0
    await asyncio.gather(running, return_exceptions=True)


async def test_a_second_signal_ends_it_at_once(interlock_dev: StartDev, tool: Tool) -> None:
    dev = await interlock_dev()
    await dev.register(tool.url)
    tool.does(never_answers())
    running = asyncio.create_task(dev.call(order=1))
    await tool.until_received(1)
    assert dev.process is not None
    dev.process.send_signal(signal.SIGINT)
    async with asyncio.timeout(10):
        await until_not_ready(dev)
        dev.process.send_signal(signal.SIGINT)
        assert await dev.process.wait() == 128 + signal.SIGINT
    await asyncio.gather(running, return_exceptions=True)
    assert "Traceback" not in dev.log.read_text()


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, lines = await ended(
            *(
                "dev",
                "--port",
                str(port),
                "--admin-port",
                "0",
                "--grpc-port",
                "0",
                "--data-dir",
                str(tmp_path / "data"),
            ),
            log=tmp_path / "log",
            settings={"INTERLOCK_SIDECAR__LOG_LEVEL": "error"},
        )
    assert code == 1
    assert lines == [f"interlock: cannot listen on 127.0.0.1:{port}: Address already in use"]


async def test_a_data_folder_in_use_is_one_clear_line(interlock_dev: StartDev, tmp_path: Path) -> None:
    dev = await interlock_dev()
    assert dev.process is not None
    code, lines = await ended("dev", "--data-dir", str(dev.data_dir), log=tmp_path / "log")
    assert code == 1
    assert lines == [
        f"interlock: the data folder {dev.data_dir}/redis is in use by process {dev.process.pid}",
    ]
    assert await dev.ready()


async def test_a_data_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, lines = await ended("dev", "--data-dir", str(tmp_path / "file" / "data"), log=tmp_path / "log")
    assert code == 1
    assert lines == [f"interlock: {tmp_path}/file/data cannot be written to: Not a directory"]


async def test_a_wrong_configuration_is_told_whole_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "interlock.yaml").write_text("sidecar: {prot: 1, port: many}\n")
    settings = {"INTERLOCK_BOOTSTRAP_KEY": "letmein", "INTERLOCK_REDIS__TIMEOUT_MS": "0"}
    arguments = ("dev", "--config", str(tmp_path / "interlock.yaml"), "--data-dir", str(tmp_path / "data"))
    code, lines = await ended(*arguments, log=tmp_path / "log", settings=settings)
    assert code == 2
    assert len(lines) == 3
    assert not (tmp_path / "data").exists()


async def test_a_redis_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    settings = {"INTERLOCK_REDIS_URL": f"unix://{tmp_path}/none.sock", "INTERLOCK_SIDECAR__LOG_LEVEL": "error"}
    code, lines = await ended("dev", "--data-dir", str(tmp_path / "data"), log=tmp_path / "log", settings=settings)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("interlock: ")
    assert "Redis" in lines[0]


async def test_the_metrics_of_a_call_are_on_the_admin_listener(interlock_dev: StartDev, tool: Tool) -> None:
    dev = await interlock_dev()
    await dev.register(tool.url)
    await dev.call(order=1)
    async with httpx.AsyncClient() as client:
        exposed = (await client.get(f"{dev.admin_url}/metrics")).text
        on_agents_side = await client.get(f"{dev.url}/metrics")
    assert 'interlock_decisions_total{agent="",reason="ok",tool="charge",verdict="EXECUTE"} 1.0' in exposed
    assert 'interlock_redis_call_seconds_count{operation="authorize"}' in exposed
    assert on_agents_side.status_code == 404
