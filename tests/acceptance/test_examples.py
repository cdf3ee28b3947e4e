"""The examples of the help, run against a running `interlock dev`: each does what it says."""

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interlock.cli.examples import EXAMPLES
from interlock.cli.main import app
from tests.acceptance.scene import Sidecars
from tests.interlock_dev import InterlockDev, until
from tests.tool import Tool, answers, resets, waits_for

ENDLESS = re.compile(r"interlock (dev|sidecar|engine|exporter|injector|calls follow|top --sort|audit tail.*--follow)\b")
"""These run until they are told to stop. The parser has seen them, and tests of their own show them."""
DONE = [example for examples in EXAMPLES.values() for example in examples if not ENDLESS.match(example)]

FILES = {
    "interlock.yaml": "sidecar: {spool_dir: spool}\n",
    "tool.yaml": "name: payments.charge\nurl: https://pay.example/charge\n",
    "tools.yaml": "tools: {applied: {url: https://pay.example/charge}}\n",
    "policy.yaml": "max_spend_usd_per_day: 50\n",
}


def run(*words: str) -> str:
    """What the command prints. Fails unless it succeeds."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.stdout


async def unsettled_call(dev: InterlockDev, tool: Tool, about: str) -> str:
    """The id of a call of unknown outcome."""
    await dev.register(tool.url, name="payments.charge", on_ambiguous="hold", max_retries=0)
    tool.does(resets())
    return (await dev.call("payments.charge", agent="shopper", about=about)).headers["Interlock-Call-Id"]


@asynccontextmanager
async def running_order(dev: InterlockDev, tool: Tool, bearer: str) -> AsyncIterator[None]:
    """The run of the examples, started with this key, goes on until the context is left."""
    may_answer = asyncio.Event()
    await dev.register(tool.does(waits_for(may_answer, answers())).url, name="orders.fulfil")
    metadata = {"agent_id": "shopper", "actions": [{"tool": "orders.fulfil", "args": {"tool": tool.url}}]}
    async with dev.client(bearer) as api:
        (await api.post("/v1/ai/run", json={"key": "order-17", "metadata": metadata})).raise_for_status()
        await tool.until_received(1)
        yield
        may_answer.set()

        async def idle() -> bool:
            return not (await api.get("/v1/calls", params={"agent_id": "shopper", "state": "in_flight"})).json()

        await until(idle)


@pytest.fixture
async def here(sidecars: Sidecars, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> InterlockDev:
    """The sidecar that the commands speak to, with what the examples take for granted: an agent, a namespace, files."""
    dev = sidecars.first
    monkeypatch.setenv("INTERLOCK_BASE_URL", dev.url)
    monkeypatch.setenv("INTERLOCK_API_KEY", dev.key)
    monkeypatch.setenv("INTERLOCK_ENGINE__SIDECAR_TOKEN", "a token of sixteen")
    monkeypatch.setenv("INTERLOCK_ENGINE__MASTER_KEY", run("master-key").strip())
    monkeypatch.setenv("INTERLOCK_ALERT_SECRET", "whsec_dGhlIGtleSBvZiB0aGUgYWxlcnRz")
    monkeypatch.setenv("INTERLOCK_REDIS_URL", "redis://127.0.0.1")
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    run("policies", "put", "shopper")
    return dev


def with_evidence() -> None:
    """The files of an audit, as its examples name them."""
    Path("audit.key").write_text(run("audit", "new-key"))
    Path("audit.pub").write_text(run("audit", "public-key", "audit.key"))
    Path("shopper.jsonl").write_text(run("audit", "export", "--agent", "shopper"))
    Path("exported").mkdir()
    Path("exported/audit-shopper.jsonl").write_text(Path("shopper.jsonl").read_text())


@pytest.mark.parametrize("example", sorted({*DONE}))
async def test_the_example_works(here: InterlockDev, tool: Tool, example: str) -> None:
    real = {}
    if "call_" in example or "payments.charge" in example:
        real[r"call_\w{22}"] = await unsettled_call(here, tool, example)
    if "keys revoke" in example:
        real[r"key_\w{22}"] = re.findall(r"key_\w{22}", run("keys", "create", "--role", "viewer", "--json"))[0]
    if "team-a" in example:
        # A name that was deleted is not given again.
        real["team-a"] = f"team-{re.sub('[^a-z]', '', example)}"[:63]
        run("namespaces", "put", real["team-a"])
    if "audit" in example:
        with_evidence()
    for told, actual in real.items():
        example = re.sub(told, actual, example)
    async with AsyncExitStack() as around:
        if "runs cancel" in example:
            made = json.loads(run("keys", "create", "--role", "agent", "--agent", "shopper", "--json"))
            whose = made["key"] if "--agent" in example else here.key
            await around.enter_async_context(running_order(here, tool, whose))
        try_it(example)


def try_it(example: str) -> None:
    try:
        run(*shlex.split(example)[1:])
    finally:
        if "switch on" in example:
            run("switch", "off", "--scope", "namespace")


def test_hardly_an_example_is_left_out() -> None:
    assert len(DONE) >= 60
