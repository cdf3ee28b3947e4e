"""Calls whose every decision is remembered, an exporter that is killed at random, and what it exported beside them.

Each request has a run id of its own, which its decision keeps: so what an agent was told can be found again exactly.
"""

import asyncio
import json
import random
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from interlock.audit.heads import PublicKey, SigningKey, new_signing_key
from interlock.audit.lines import files_of
from interlock.audit.verification import verify
from interlock.policy.model import Scope, TrailState
from interlock.store.opening import open_store
from interlock.store.settings import RedisSettings
from tests.conformance.conftest import Silent
from tests.interlock_dev import InterlockDev, launch, until
from tests.redis_server import RedisServer

VERDICTS = {"executed": "EXECUTE", "dedup": "REPLAY", "blocked": "BLOCKED", "in_flight": "IN_FLIGHT"}
LET_THROUGH = {"EXECUTE", "REPLAY"}


@dataclass
class Told:
    """What the agents were told, by run id, and how often they were told nothing that they could use."""

    decisions: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Run id: agent, verdict, call id."""
    failures: Counter[str] = field(default_factory=Counter)


@dataclass
class ExporterProcess:
    """`interlock exporter` on a folder of its own, which a test may kill."""

    folder: Path
    settings: Mapping[str, str]
    process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    async def start(self) -> None:
        self.process = await launch("exporter", log=self.log, settings=self.settings)

    async def kill(self) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(20):
            return await self.process.wait()


def audit_settings(folder: Path, redis_url: str, **more: str) -> dict[str, str]:
    """Variables of an exporter to files in `folder`/exported, with a key that is made there."""
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "audit.key"
    if not key.exists():
        key.write_text(new_signing_key())
    return {
        "INTERLOCK_REDIS_URL": redis_url,
        "INTERLOCK_AUDIT__SIGNING_KEY_FILE": str(key),
        "INTERLOCK_AUDIT__FILE__FOLDER": str(folder / "exported"),
        "INTERLOCK_AUDIT__LEASE_MS": "700",
        "INTERLOCK_AUDIT__SWEEP_S": "2",
        "INTERLOCK_AUDIT__HEAD_EVERY_S": "0.5",
        "INTERLOCK_AUDIT__ADMIN_PORT": "0",
        **more,
    }


def public_key(folder: Path) -> PublicKey:
    return SigningKey.load(folder / "audit.key").public


@asynccontextmanager
async def running_exporter(folder: Path, settings: Mapping[str, str]) -> AsyncIterator[ExporterProcess]:
    exporter = ExporterProcess(folder / "exporter", settings)
    await exporter.start()
    try:
        yield exporter
    finally:
        await exporter.stop()


async def work(dev: InterlockDev, agent: str, calls: int, told: Told, seed: object) -> None:
    """An agent's calls, one after the other: new ones, repeated ones and ones that are not allowed. Each until told."""
    chance = random.Random(f"{seed} {agent}")
    headers = {"Authorization": f"Bearer {dev.key}", "Interlock-Agent": agent}
    async with aiohttp.ClientSession(dev.url, headers=headers, timeout=aiohttp.ClientTimeout(20)) as client:
        number = 0
        for call in range(calls):
            kind = chance.choices(["new", "again", "forbidden"], [5, 2, 3])[0]
            number += kind == "new"
            tool, body = ("forbidden", {"n": call}) if kind == "forbidden" else ("charge", {"n": number})
            tries = 0
            while not await _told(client, told, agent, tool, body, f"{agent}-{call}-{tries}"):
                tries += 1
                await asyncio.sleep(chance.uniform(0.02, 0.1))


async def _told(
    client: aiohttp.ClientSession, told: Told, agent: str, tool: str, body: Mapping[str, object], run_id: str
) -> bool:
    try:
        async with client.post(f"/tools/{tool}", json=body, headers={"Interlock-Run-Id": run_id}) as answer:
            await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        told.failures[type(error).__name__] += 1
        return False
    decision = answer.headers.get("Interlock-Decision", "")
    if decision not in VERDICTS:
        told.failures[f"{answer.status} {decision}"] += 1
        return False
    told.decisions[run_id] = (agent, VERDICTS[decision], answer.headers["Interlock-Call-Id"])
    return answer.status in {200, 403}


async def kill_at_random(
    exporter: ExporterProcess, redis: RedisServer, over: asyncio.Event, seed: object, pause_s: tuple[float, float]
) -> Counter[str]:
    """SIGKILL for one of them now and then, and a new start; how often for each."""
    chance, kills = random.Random(f"{seed} kills"), Counter[str]()
    while not over.is_set():
        try:
            async with asyncio.timeout(chance.uniform(*pause_s)):
                await over.wait()
                break
        except TimeoutError:
            pass
        victim = chance.choice(["exporter", "exporter", "redis"])
        kills[victim] += 1
        if victim == "redis":
            await asyncio.to_thread(redis.kill)
            # It reads all it has written so far, on a machine that has other things to do.
            await asyncio.to_thread(redis.start, within_s=180)
        else:
            await exporter.kill()
            await exporter.start()
    return kills


async def until_exported(redis_url: str, within_s: float = 60) -> dict[str, TrailState]:
    """Waits until every trail is exported and signed. The trails by agent."""
    async with open_store(RedisSettings(url=redis_url), Silent()) as store:
        states: dict[str, TrailState] = {}

        async def done() -> bool:
            scopes: list[Scope] = []
            for namespace in await store.trails.namespaces():
                scopes += await store.trails.agents(namespace)
            # Whoever reads has what was folded told.
            for scope in scopes:
                await store.ledger.events(scope, after_seq=0, limit=1)
            found = [state for state in await store.trails.states(scopes) if state.last_seq]
            states.update({state.scope.agent_id: state for state in found})
            return bool(found) and all(
                state.seq_of("file") == state.heads.get("file") == state.last_seq and not state.folding
                for state in found
            )

        await until(done, within_s)
        return states


def exported_events(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of each agent in the files, each once, by seq."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for file in files_of([folder / "exported"]):
        for line in file.read_bytes().splitlines():
            event = json.loads(line)
            if not event["type"].endswith(".head"):
                found[event["subject"]][event["sequence"]] = event
    return {agent: [events[seq] for seq in sorted(events)] for agent, events in found.items()}


def assert_proved(folder: Path, states: Mapping[str, TrailState]) -> int:
    """The files verify, from each agent's first event to its last, all of it signed. Returns how many are repeats."""
    report = verify(files_of([folder / "exported"]), [public_key(folder)])
    assert report.problem is None, report.problem
    proved = {proof.agent.agent_id: (proof.first, proof.last, proof.signed_to) for proof in report.proofs}
    assert proved == {agent: (1, state.last_seq, state.last_seq) for agent, state in states.items()}
    return report.repeats


async def assert_every_decision_is_there_once(folder: Path, told: Told, dev: InterlockDev) -> Counter[str]:
    """For each decision that was told there is one in the files, and no refusal is counted twice or not at all."""
    events = exported_events(folder)
    singles: Counter[tuple[str, str, str, str]] = Counter()
    refusals: Counter[str] = Counter()
    for agent, trail in events.items():
        for event in trail:
            data, kind = event["data"], event["type"].rpartition(".")[2]
            if kind == "decision":
                singles[data["facts"]["run_id"], agent, data["verdict"], data["call_id"]] += 1
                refusals[agent] += data["verdict"] not in LET_THROUGH
            elif kind == "refusals":
                refusals[agent] += data["facts"]["count"]
    assert not [key for key, count in singles.items() if count != 1]
    let_through = {
        (run_id, agent, verdict, call_id)
        for run_id, (agent, verdict, call_id) in told.decisions.items()
        if verdict in LET_THROUGH
    }
    assert let_through <= singles.keys()
    told_refusals = Counter(agent for agent, verdict, _ in told.decisions.values() if verdict not in LET_THROUGH)
    async with dev.client() as operator:
        for agent in events:
            figures = (await operator.get(f"/v1/agents/{agent}/metrics", params={"period": "day"})).json()
            assert refusals[agent] == figures["blocked_actions"] >= told_refusals[agent], agent
    untold = sum(refusals.values()) - sum(told_refusals.values())
    assert untold <= sum(told.failures.values()), "only who got no answer was refused without being told"
    return Counter(verdict for _, verdict, _ in told.decisions.values())
