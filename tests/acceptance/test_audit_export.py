"""`interlock dev` with an exporter: the evidence as an operator and an auditor have it, by the command line."""

import asyncio
import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from interlock.audit.lines import files_of
from tests.conftest import StartDev
from tests.exported_trail import audit_settings, until_exported
from tests.interlock_dev import InterlockDev, until
from tests.redis_server import RedisServer
from tests.tool import Tool, answers

SECRET = "a-secret-that-nobody-may-see"


async def interlock(dev: InterlockDev, *arguments: object) -> tuple[int, bytes, str]:
    """An operator's command: exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "interlock.cli.main", *map(str, arguments)),
        env={**os.environ, "INTERLOCK_BASE_URL": dev.url, "INTERLOCK_API_KEY": dev.key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out, err.decode()


async def exported_with(dev: InterlockDev, redis: RedisServer, tool: Tool) -> None:
    """Some calls, all of them in the files."""
    await dev.register(tool.url, auth={"type": "hmac_sha256", "secret": SECRET})
    for n in range(15):
        await dev.call(agent="a1", n=n, note=SECRET)
        await dev.call(agent="a2", n=n % 3)
    async with dev.client() as operator:
        (await operator.post("/v1/policies/a1", json={"blocked_tools": ["*"]})).raise_for_status()
    for n in range(25):
        assert (await dev.call(agent="a1", n=n)).status_code == 403
    await until_exported(redis.url)


async def test_what_is_exported_is_proved_with_the_public_key_and_a_change_is_found(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool, tmp_path: Path
) -> None:
    dev = await interlock_dev(own_redis.url, **audit_settings(tmp_path, own_redis.url))
    await exported_with(dev, own_redis, tool)
    code, public, _ = await interlock(dev, "audit", "public-key", tmp_path / "audit.key")
    assert (code, public.splitlines()[0]) == (0, b"-----BEGIN PUBLIC KEY-----")
    (tmp_path / "audit.pub").write_bytes(public)
    verify = ("audit", "verify", tmp_path / "exported", "--public-key", tmp_path / "audit.pub", "--json")

    async def signed() -> bool:
        _, out, _ = await interlock(dev, *verify)
        return all(row["signed_to"] == row["last"] for row in json.loads(out)["agents"])

    await until(signed)  # the last events are in the file a little before the head over them
    code, out, _ = await interlock(dev, *verify)
    told: dict[str, Any] = json.loads(out)
    assert (code, told["proved"], told["problem"], told["notes"]) == (0, True, None, [])
    assert [row["agent"] for row in told["agents"]] == ["default/a1", "default/a2"]
    assert all(row["from_the_start"] and row["signed_to"] == row["last"] for row in told["agents"])

    # The API tells the same bytes, and nothing that is secret is in either.
    (file,) = files_of([tmp_path / "exported"])
    kept = file.read_bytes()
    code, chained, _ = await interlock(dev, "audit", "export")
    assert code == 0
    assert {*chained.splitlines()} == {line for line in kept.splitlines() if b'"dev.interlock.audit.head"' not in line}
    code, rest, _ = await interlock(dev, "audit", "export", "--agent", "a1", "--after", 10)
    assert rest and rest in chained
    assert SECRET.encode() not in kept
    assert dev.key.encode() not in kept

    # Refusals alike are counted, and none is left out.
    a1 = [json.loads(line) for line in chained.splitlines() if json.loads(line)["subject"] == "a1"]
    refused = [event["data"] for event in a1 if event["data"].get("verdict") == "BLOCKED"]
    assert len(refused) < 25
    assert sum(data["facts"].get("count", 1) for data in refused) == 25

    lines = kept.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b"default/a2/7" in line)
    file.write_bytes(b"".join([*lines[:at], lines[at].replace(b"charge", b"refund"), *lines[at + 1 :]]))
    code, out, _ = await interlock(dev, *verify)
    problem = json.loads(out)["problem"]
    assert (code, problem["kind"], problem["line"]) == (1, "altered", at + 1)
    assert (problem["file"], problem["agent"], problem["seq"]) == (str(file), "default/a2", 7)
    file.with_suffix(".jsonl.gz").write_bytes(gzip.compress(kept))
    file.unlink()
    code, out, _ = await interlock(dev, *verify[:-1])
    assert (code, b"complete, in order and unchanged" in out) == (0, True)
    code, _, err = await interlock(dev, "audit", "verify", tmp_path / "nothing.jsonl")
    assert (code, "cannot be read" in err) == (2, True)


async def test_an_anomaly_is_evidence_like_all_else(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool, tmp_path: Path
) -> None:
    dev = await interlock_dev(own_redis.url, **audit_settings(tmp_path, own_redis.url))
    await dev.register(tool.url)
    async with dev.client() as operator:
        policy = {"blocked_tools": ["*"], "on_anomaly": "disable"}
        (await operator.post("/v1/policies/a1", json=policy)).raise_for_status()
        for n in range(12):
            assert (await dev.call(agent="a1", n=n)).status_code == 403

        async def disabled() -> bool:
            return not (await operator.get("/v1/agents/a1")).json()["is_enabled"]

        await until(disabled)
    await until_exported(own_redis.url)
    (tmp_path / "audit.pub").write_bytes((await interlock(dev, "audit", "public-key", tmp_path / "audit.key"))[1])
    exported = tmp_path / "exported"
    code, out, err = await interlock(dev, "audit", "verify", exported, "--public-key", tmp_path / "audit.pub", "--json")
    assert (code, json.loads(out)["proved"]) == (0, True), err
    (file,) = files_of([exported])
    told = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert [event["type"] for event in told].count("dev.interlock.audit.anomaly") == 1
    assert [event["type"] for event in told].count("dev.interlock.audit.switch") == 1


async def test_a_receiver_that_hangs_slows_no_call_and_at_the_cap_calls_wait_for_it(
    interlock_dev: StartDev, own_redis: RedisServer, tool: Tool
) -> None:
    opened = asyncio.Event()
    receiver = Tool()
    await receiver.start()

    async def hangs_until_opened(request: Any) -> Any:
        await opened.wait()
        return await answers(204, b"")(request)

    receiver.does(hangs_until_opened)
    settings = {
        "INTERLOCK_AUDIT__HTTP__URL": receiver.url,
        "INTERLOCK_AUDIT__HTTP__BEARER_TOKEN": SECRET,
        "INTERLOCK_AUDIT__HTTP__TIMEOUT_MS": "1000",
        "INTERLOCK_AUDIT__BACKLOG_CAP": "100",
    }
    try:
        dev = await interlock_dev(own_redis.url, **settings)
        await dev.register(tool.url)
        # Each is a decision and a settlement.
        assert [(await dev.call(n=n)).status_code for n in range(50)] == [200] * 50
        refused = await dev.call(n=50)
        assert (refused.status_code, refused.json()["reason"], refused.json()["retryable"]) == (
            *(503, "audit_backlog", True),
        )
        assert (refused.headers["Retry-After"], refused.headers["Interlock-Decision"]) == ("5", "blocked")
        assert (await dev.call(n=0)).headers["Interlock-Decision"] == "dedup", "all else goes on"
        assert (await dev.call(agent="another", n=0)).status_code == 200
        opened.set()

        async def goes_on() -> bool:
            return (await dev.call(n=50)).status_code == 200

        await until(goes_on, 60)
        received = receiver.received[-1]
        assert received.header("Authorization") == f"Bearer {SECRET}"
        assert SECRET not in dev.log.read_text()
        async with httpx.AsyncClient() as client:
            figures = (await client.get(f"{dev.admin_url}/metrics")).text
        assert 'interlock_audit_exported_total{sink="http"}' in figures
        assert "interlock_audit_exporting 1.0" in figures
    finally:
        opened.set()
        await receiver.stop()


async def test_an_exporter_that_cannot_start_says_why(tmp_path: Path, interlock_dev: StartDev) -> None:
    async def told(*arguments: str, **settings: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "interlock.cli.main", *arguments),
            env={**os.environ, **settings},
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
        return process.returncode or 0, err.decode()

    code, said = await told("exporter")
    assert code == 2
    assert "redis.url: not set" in said
    assert "audit: no sink is named" in said
    assert "audit.signing_key_file: not set" in said
    (tmp_path / "key").write_text("nonsense")
    settings = {**audit_settings(tmp_path, "unix:///nowhere"), "INTERLOCK_AUDIT__SIGNING_KEY_FILE": f"{tmp_path}/key"}
    code, said = await told("exporter", **settings, INTERLOCK_AUDIT__HTTP__URL="http://elsewhere.example/?token=hidden")
    assert (code, "audit.http.url: http://elsewhere.example/ is not encrypted" in said) == (2, True)
    assert "hidden" not in said
    code, said = await told("exporter", **settings)
    assert (code, "holds no private key in PEM" in said) == (2, True)
