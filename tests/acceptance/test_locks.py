"""Locks and leases with the stock client, unmodified, and over HTTP as any other client speaks it."""

import asyncio
import hashlib
import json
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from onceonly import OnceOnly
from onceonly.decorators import idempotent
from onceonly.exceptions import ApiError, OverLimitError, ValidationError

from tests.acceptance.scene import Scene
from tests.conftest import StartDev
from tests.interlock_dev import InterlockDev, until

WORKER = Path(__file__).parents[1] / "lease_worker.py"
MiB = 1_048_576


@pytest.fixture
def key() -> str:
    return f"job-{secrets.token_hex(6)}"


@pytest.fixture
async def api(scene: Scene) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks with the key of the scene's agent, at the first sidecar."""
    async with scene.first.client(await scene.key(scene.agent)) as client:
        yield client


async def started(way: str, at: InterlockDev, api_key: str, key: str, journal: Path, ttl: int, seconds: float) -> Any:
    arguments = [str(part) for part in (way, at.url, api_key, key, journal, ttl, seconds)]
    return await asyncio.create_subprocess_exec(
        sys.executable, WORKER, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def said(worker: Any) -> dict[str, Any]:
    output, errors = await worker.communicate()
    assert worker.returncode == 0, errors.decode()
    return dict(json.loads(output))


def words(journal: Path) -> list[str]:
    return [line.split()[0] for line in journal.read_text().splitlines()] if journal.exists() else []


@pytest.mark.parametrize("way", ["run_fn", "run_fn_async", "idempotent_ai", "idempotent_ai_async"])
async def test_of_two_processes_one_does_the_work_and_both_have_its_result(
    scene: Scene, key: str, way: str, tmp_path: Path
) -> None:
    journal, api_key = tmp_path / "journal", await scene.key(scene.agent)
    workers = [await started(way, at, api_key, key, journal, 60, 0.3) for at in scene.both]
    first, second = await asyncio.gather(*map(said, workers))
    assert words(journal) == ["began", "ended"]
    assert first == second
    assert (first["status"], first["ok"]) == ("completed", True)
    assert first["result"]["by"] in {worker.pid for worker in workers}
    canonical = json.dumps(first["result"], separators=(",", ":")).encode()
    assert first["hash"] == hashlib.sha256(canonical).hexdigest()


async def test_a_worker_that_is_killed_in_the_midst_is_taken_over_when_its_time_is_over(
    scene: Scene, api: httpx.AsyncClient, key: str, tmp_path: Path
) -> None:
    journal, api_key = tmp_path / "journal", await scene.key(scene.agent)
    victim = await started("run_fn", scene.first, api_key, key, journal, 2, 60)

    async def has_begun() -> bool:
        return words(journal) == ["began"]

    await until(has_begun, within_s=30)
    victim.kill()
    await victim.wait()
    assert (await api.get("/v1/ai/status", params={"key": key})).json()["status"] == "in_progress"
    waited = (await api.get("/v1/ai/status", params={"key": key, "wait": 30})).json()
    assert (waited["status"], waited["version"]) == ("expired", 1)
    heirs = [await started("run_fn", at, api_key, key, journal, 30, 0.1) for at in scene.both]
    found = await asyncio.gather(*map(said, heirs))
    assert words(journal) == ["began", "began", "ended"]
    assert found[0] == found[1]
    assert found[0]["result"]["by"] in {heir.pid for heir in heirs}
    assert (await api.get("/v1/ai/status", params={"key": key})).json()["version"] == 2


async def test_of_300_check_locks_at_two_sidecars_one_locks(scene: Scene, key: str) -> None:
    api_key = await scene.key(scene.agent)
    async with scene.first.client(api_key) as first, scene.second.client(api_key) as second:
        asked = (
            (first, second)[n % 2].post("/v1/check-lock", json={"key": key}, headers={"X-Request-Id": f"r-{n}"})
            for n in range(300)
        )
        answers = await asyncio.gather(*asked)
    assert Counter((one.status_code, one.json()["status"]) for one in answers) == {
        (200, "locked"): 1,
        (200, "duplicate"): 299,
    }
    for n, one in enumerate(answers):
        assert one.headers["X-OnceOnly-Status"] == one.json()["status"]
        assert one.headers["X-Request-Id"] == f"r-{n}"
        assert one.json()["success"] == (one.json()["first_seen_at"] is None) == (one.json()["status"] == "locked")
    assert len({one.json()["first_seen_at"] for one in answers}) == 2


async def test_the_stock_client_locks_and_runs_a_function_once(scene: Scene, key: str) -> None:
    api_key = await scene.key(scene.agent)

    def use() -> tuple[Any, Any, list[int]]:
        ran: list[int] = []
        with OnceOnly(api_key, base_url=f"{scene.first.url}/v1", timeout=30, fail_open=False) as client:
            first = client.check_lock(key, ttl=60, meta={"who": "é"}, request_id="mine")
            second = client.check_lock(key, ttl=5)
            once = idempotent(client, key_func=lambda n: f"{key}-{n}")(ran.append)
            for n in (1, 2, 1):
                once(n)
        return first, second, ran

    first, second, ran = await asyncio.to_thread(use)
    assert (first.locked, first.ttl, first.first_seen_at, first.request_id) == (True, 60, None, "mine")
    assert (second.duplicate, second.ttl, second.status_code) == (True, 60, 200)
    assert second.first_seen_at.endswith("Z")
    assert ran == [1, 2]


async def test_a_duplicate_is_409_where_a_sidecar_is_set_so_and_plans_are_told(
    interlock_dev: StartDev, redis_url: str, key: str
) -> None:
    plans = {"free": {"check_locks_per_month": 1, "runs_per_month": 1, "default_ttl_s": 60, "max_ttl_s": 3600}}
    dev = await interlock_dev(
        redis_url,
        INTERLOCK_SIDECAR__DUPLICATES_CONFLICT="true",
        INTERLOCK_ENGINE__PLANS=json.dumps(plans),
        INTERLOCK_ENGINE__DEFAULT_PLAN="free",
    )

    def use() -> tuple[Any, Any, dict[str, Any], dict[str, Any], list[OverLimitError]]:
        with OnceOnly(dev.key, base_url=f"{dev.url}/v1", timeout=30, fail_open=False) as client:
            locked, again = client.check_lock(key, ttl=86_400), client.check_lock(key)
            lease, failed = client.ai.lease(key), []
            for ask in (lambda: client.check_lock("other"), lambda: client.ai.lease("other")):
                with pytest.raises(OverLimitError) as raised:
                    ask()
                failed.append(raised.value)
            return locked, again, lease, client.ai.lease(key), failed

    locked, again, lease, polling, failed = await asyncio.to_thread(use)
    assert (locked.locked, locked.ttl) == (True, 3600)
    assert (again.duplicate, again.status_code) == (True, 409)
    assert again.first_seen_at.endswith("Z")
    assert (lease["ttl"], lease["charged"], lease["usage"], lease["limit"]) == (60, 1, 1, 1)
    assert (polling["status"], polling["charged"], polling["lease_id"]) == ("polling", 0, None)
    for error in failed:
        assert error.detail == error.detail | {"error": "payment_required", "plan": "free", "limit": 1, "usage": 1}


async def test_the_life_of_a_lease_as_the_contract_has_it(api: httpx.AsyncClient, key: str) -> None:
    async def post(path: str, **body: Any) -> tuple[int, Any]:
        answer = await api.post(f"/v1/ai/{path}", json={"key": key, **body})
        return answer.status_code, answer.json()

    async def get(path: str, at: str = key) -> tuple[int, Any]:
        answer = await api.get(f"/v1/ai/{path}", params={"key": at})
        return answer.status_code, answer.json()

    for path in ("status", "result"):
        assert await get(path) == (404, {"detail": {"error": "not_found", "message": "there is no lease of that key"}})
    _, held = await post("lease", ttl=60, metadata={"n": 1})
    assert held == held | {"ok": True, "status": "acquired", "key": key, "ttl": 60, "ttl_left": 60, "version": 1}
    assert held == held | {"charged": 1, "limit": None, "done_at": None, "result_hash": None, "retry_after_sec": None}
    _, poll = await post("lease")
    assert poll == poll | {"status": "polling", "lease_id": None, "retry_after_sec": 1, "charged": 0, "version": 1}
    _, status = await get("status")
    assert status == status | {"status": "in_progress", "retry_after_sec": 1, "first_seen_at": held["first_seen_at"]}
    assert "lease_id" not in status
    extended = await post("extend", lease_id=held["lease_id"], ttl=120)
    assert extended == (200, {"ok": True, "key": key, "status": "extended", "ttl": 120, "version": 1})
    for path, fields in (("extend", {}), ("complete", {}), ("fail", {"error_code": "x"}), ("cancel", {})):
        code, refused = await post(path, lease_id="lease_of_nobody", **fields)
        assert (code, refused["detail"]["error"]) == (409, "lease_not_held")
    _, given_up = await post("cancel", lease_id=held["lease_id"], reason="no")
    assert (given_up["status"], (await get("status"))[1]["status"]) == ("cancelled", "cancelled")
    _, again = await post("lease")
    assert (again["status"], again["version"], again["first_seen_at"]) == ("acquired", 2, held["first_seen_at"])
    for _ in range(2):
        code, done = await post("complete", lease_id=again["lease_id"], result={"b": 1, "a": 2.50}, result_hash="mine")
        assert (code, done["status"], done["version"], done["result_hash"]) == (200, "completed", 2, "mine")
    code, other = await post("complete", lease_id=again["lease_id"], result={"b": 2}, result_hash="mine")
    assert (code, other["detail"]["error"]) == (409, "lease_settled")
    _, found = await get("result")
    assert found == found | {"ok": True, "status": "completed", "result": {"a": 2.5, "b": 1}, "result_hash": "mine"}
    _, over = await post("lease")
    assert over == over | {"status": "completed", "lease_id": None, "charged": 0, "done_at": found["done_at"]}


async def test_a_failed_lease_says_why_and_its_result_is_none(api: httpx.AsyncClient, key: str) -> None:
    lease_id = (await api.post("/v1/ai/lease", json={"key": key})).json()["lease_id"]
    said = {"key": key, "lease_id": lease_id, "error_code": "boom", "error_hash": "h"}
    assert (await api.post("/v1/ai/fail", json=said)).json()["error_code"] == "boom"
    found = (await api.get("/v1/ai/result", params={"key": key})).json()
    assert found == found | {"ok": False, "status": "failed", "result": None, "error_code": "boom"}
    assert (await api.post("/v1/ai/lease", json={"key": key})).json()["status"] == "failed"


async def test_a_result_of_a_mebibyte_comes_back_as_it_was_sent_and_a_larger_one_is_refused(
    api: httpx.AsyncClient, key: str
) -> None:
    lease_id = (await api.post("/v1/ai/lease", json={"key": key})).json()["lease_id"]
    head = {"Content-Type": "application/json"}

    def body(result: str) -> bytes:
        return f'{{ "key": "{key}", "lease_id": "{lease_id}",\n "result" : {result} }}'.encode()

    fits = '{"n":1.10,"x":"%s"}' % ("x" * (MiB - 17))
    assert len(fits) == MiB
    refused = await api.post("/v1/ai/complete", content=body(fits.replace("xx", "xxx", 1)), headers=head)
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "result"])
    spaced = fits.replace('"n":', '\t"n" : \n')
    done = await api.post("/v1/ai/complete", content=body(spaced), headers=head)
    assert done.status_code == 200, done.text
    found = await api.get("/v1/ai/result", params={"key": key})
    assert found.content.endswith(f'"result":{fits}}}'.encode())


HOSTILE: list[tuple[str, Any]] = [
    ("/v1/check-lock", {}),
    ("/v1/check-lock", {"key": ""}),
    ("/v1/check-lock", {"key": "k" * 257}),
    ("/v1/check-lock", {"key": 1}),
    ("/v1/check-lock", {"key": None}),
    ("/v1/check-lock", {"key": "k", "ttl": 0}),
    ("/v1/check-lock", {"key": "k", "ttl": -1}),
    ("/v1/check-lock", {"key": "k", "ttl": 1.5}),
    ("/v1/check-lock", {"key": "k", "ttl": True}),
    ("/v1/check-lock", {"key": "k", "ttl": "60"}),
    ("/v1/check-lock", {"key": "k", "metadata": []}),
    ("/v1/check-lock", {"key": "k", "metadata": {"x": "y" * 2041}}),
    ("/v1/check-lock", {"key": "k", "unknown": 1}),
    ("/v1/check-lock", {"key": "k", "attempt_id": "a b"}),
    ("/v1/ai/lease", {"key": "k", "metadata": "text"}),
    ("/v1/ai/extend", {"key": "k"}),
    ("/v1/ai/complete", {"key": "k", "lease_id": "l", "result": [1]}),
    ("/v1/ai/complete", {"key": "k", "lease_id": "l", "result_hash": "h" * 257}),
    ("/v1/ai/fail", {"key": "k", "lease_id": "l"}),
    ("/v1/ai/cancel", {"key": "k", "lease_id": "l", "reason": "r" * 513}),
]


@pytest.mark.parametrize(("path", "body"), HOSTILE)
async def test_impossible_bodies_are_422_with_their_place(api: httpx.AsyncClient, path: str, body: Any) -> None:
    refused = await api.post(path, json=body)
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][0] == "body"


@pytest.mark.parametrize("query", ["", "key=", "key=k&wait=61", "key=k&wait=-1", "key=k&wait=nan", "key=k&other=1"])
async def test_impossible_queries_are_422_with_their_place(api: httpx.AsyncClient, query: str) -> None:
    refused = await api.get(f"/v1/ai/status?{query}")
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][0] == "query"


@pytest.mark.parametrize("name", ["k" * 256, "🔒" * 256, "a b/c?d&e=f#%", "\x00\n", "{}", "il:{default}:lease"])
async def test_any_text_of_1_to_256_characters_is_a_key(api: httpx.AsyncClient, name: str) -> None:
    locked = (await api.post("/v1/check-lock", json={"key": name, "ttl": 10**18, "metadata": {"x": "y" * 2040}})).json()
    assert (locked["status"], locked["key"], locked["ttl"]) == ("locked", name, 30 * 86_400)
    assert (await api.post("/v1/ai/lease", json={"key": name})).json()["status"] == "acquired"
    shown = await api.get("/v1/ai/status", params={"key": name})
    assert (shown.status_code, shown.json()["key"]) == (200, name)


async def test_the_stock_client_is_told_of_a_switch_and_of_bad_values_as_what_they_are(scene: Scene, key: str) -> None:
    api_key = await scene.key(scene.agent)
    await scene.ask("POST", f"/v1/agents/{scene.agent}/disable", {"reason": "test"})

    def use() -> list[Any]:
        with OnceOnly(api_key, base_url=f"{scene.second.url}/v1", timeout=30, fail_open=True) as client:
            found: list[Any] = []
            for ask in (lambda: client.check_lock(key), lambda: client.ai.lease(key)):
                with pytest.raises(ApiError) as raised:
                    ask()
                found.append((raised.value.status_code, raised.value.detail["error"]))
            with pytest.raises(ValidationError):
                client.check_lock("")
            return found

    assert await asyncio.to_thread(use) == [(423, "agent_disabled")] * 2
    await scene.ask("POST", f"/v1/agents/{scene.agent}/enable", {})


async def test_who_waits_is_answered_when_the_sidecar_drains(interlock_dev: StartDev, redis_url: str, key: str) -> None:
    dev = await interlock_dev(redis_url)
    async with dev.client() as client:
        await client.post("/v1/ai/lease", json={"key": key})
        waiting = asyncio.create_task(client.get("/v1/ai/status", params={"key": key, "wait": 60}))
        await asyncio.sleep(0.5)
        async with asyncio.timeout(20):
            assert await dev.stop() == 0
            assert (await waiting).json()["status"] == "in_progress"
