"""Configuration as code, from outside: files and the command on one side, the very next call on the other."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.acceptance.scene import Scene
from tests.tool import Tool

SECRET = "the-signing-one-Qx7vTz"
KEY_OF_TOOL = "the-one-no-agent-sees-Wk3mPd"
VARIABLES = {"PAY_SECRET": SECRET, "PAY_KEY": KEY_OF_TOOL}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def actions(self) -> dict[str, str]:
        """What became of each thing, of a command that was to print JSON."""
        return {change["name"]: change["action"] for change in json.loads(self.out)["changes"]}


class Repository:
    """A team's folder of files, and the command that applies it."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.folder = folder / "manifests"
        self.folder.mkdir()
        self.owner = f"team-{scene.agent}"
        self.tool = f"tool-{scene.agent}"

    def write(self, tools: Mapping[str, Any], policies: Mapping[str, Any] | None = None, name: str = "a.yaml") -> None:
        """JSON is YAML, too."""
        document = {"owner": self.owner, "tools": tools, "policies": policies or {}}
        (self.folder / name).write_text(json.dumps(document))

    async def apply(self, *arguments: str, environment: Mapping[str, str] = VARIABLES) -> Ended:
        access = {"INTERLOCK_BASE_URL": self.scene.first.url, "INTERLOCK_API_KEY": self.scene.first.key}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "interlock.cli.main", "apply", "-f", str(self.folder), *arguments),
            env={"PATH": "/usr/bin:/bin", **access, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    def fields(self, url: str, **more: Any) -> dict[str, Any]:
        return {"url": url, "auth": {"type": "hmac_sha256", "secret": "env:PAY_SECRET"}, **more}


@pytest.fixture
def repository(scene: Scene, tmp_path: Path) -> Repository:
    return Repository(scene, tmp_path)


async def state(scene: Scene) -> Mapping[str, Any]:
    """All that is configured, and with it the epoch: what must not change when nothing does."""
    async with Redis.from_url(scene.first.redis_url) as raw:
        names = [name for name in await raw.keys("*") if name.endswith((b":config", b":tools", b"}:epoch"))]
        return {name.decode(): await raw.dump(name) for name in names}


async def test_the_next_call_is_judged_by_what_was_applied(scene: Scene, repository: Repository, tool: Tool) -> None:
    repository.write({repository.tool: repository.fields(tool.url)}, {scene.agent: {"max_actions_per_hour": 1}})
    assert (await repository.apply()).code == 0
    assert (await scene.call(repository.tool, b"one", at=scene.second)).status == 200
    assert tool.received[0].header("X-OnceOnly-Signature")
    assert (await scene.call(repository.tool, b"two", at=scene.second)).status == 429

    repository.write({repository.tool: repository.fields(tool.url)}, {scene.agent: {"blocked_tools": ["*"]}})
    ended = await repository.apply("--json")
    assert ended.actions == {scene.agent: "update", repository.tool: "unchanged"}
    assert (await scene.call(repository.tool, b"three")).json["reason"] == "tool_explicitly_blocked"

    repository.write({}, {})
    assert (await repository.apply("--json")).actions == {scene.agent: "delete", repository.tool: "delete"}
    assert (await scene.call(repository.tool, b"four", at=scene.second)).status == 404


async def test_applied_again_nothing_changes_and_a_dry_run_changes_nothing(
    scene: Scene, repository: Repository
) -> None:
    credential = {"header": "X-Key", "value": "env:PAY_KEY"}
    fields = repository.fields("http://127.0.0.1:9/", upstream_credential=credential)
    repository.write({repository.tool: fields}, {scene.agent: {"max_spend_usd_per_day": 0.1}})
    before = await state(scene)
    would = await repository.apply("--dry-run", "--detailed-exitcode", "--json")
    assert (would.code, would.actions) == (5, {scene.agent: "create", repository.tool: "create"})
    assert await state(scene) == before

    people = (await repository.apply("--dry-run")).out
    told = [line.strip() for line in people.splitlines()]
    assert told[told.index(f"+ tool {repository.tool}") + 1 :] == [
        "url: http://127.0.0.1:9/",
        "upstream_credential.type: header",
        "upstream_credential.header: X-Key",
        "secret: set",
        "would be: 2 created, 0 unchanged",
    ]
    first = await repository.apply("--detailed-exitcode", "--json")
    assert (first.code, first.actions) == (5, would.actions)
    after = await state(scene)
    again = await repository.apply("--detailed-exitcode", "--json")
    assert (again.code, set(again.actions.values())) == (0, {"unchanged"})
    assert await state(scene) == after
    assert len(await scene.events("policy")) == 1

    repository.write({repository.tool: {**fields, "timeout_ms": 500}}, {scene.agent: {"max_spend_usd_per_day": 0.2}})
    told = await repository.apply("--dry-run", environment={**VARIABLES, "PAY_SECRET": "another-secret-of-it"})
    assert told.code == 0
    assert f"~ tool {repository.tool}\n    timeout_ms: 15000 → 500\n    secret: changed\n" in told.out
    assert f"~ policy {scene.agent}\n    max_spend_usd_per_day: 0.1 → 0.2\n" in told.out
    assert told.out.endswith("would be: 2 updated, 0 unchanged\n")
    assert await state(scene) == after


async def test_pruning_spares_what_others_and_hands_have_made(scene: Scene, repository: Repository) -> None:
    by_hand = await scene.register("http://127.0.0.1:9/")
    mine = {f"{repository.tool}-{n}": {"url": "http://127.0.0.1:9/"} for n in range(3)}
    repository.write(mine)
    await repository.apply()
    theirs = {f"{repository.tool}-theirs": {"url": "http://127.0.0.1:9/"}}
    (repository.folder / "a.yaml").write_text(json.dumps({"owner": f"{repository.owner}-2", "tools": theirs}))
    assert set((await repository.apply("--json")).actions.values()) == {"create"}

    repository.write({f"{repository.tool}-0": {"url": "http://127.0.0.1:9/"}})
    kept = await repository.apply("--no-prune", "--json")
    assert set(kept.actions.values()) == {"unchanged"}
    pruned = await repository.apply("--json")
    assert {name for name, action in pruned.actions.items() if action == "delete"} == {
        f"{repository.tool}-1",
        f"{repository.tool}-2",
    }
    names = {shown["name"] for shown in await scene.ask("GET", "/v1/tools")}
    assert {by_hand, f"{repository.tool}-0", f"{repository.tool}-theirs"} <= names

    repository.write({f"{repository.tool}-theirs": {"url": "http://127.0.0.1:9/"}})
    before = await state(scene)
    conflict = await repository.apply()
    assert conflict.code == 1
    assert "managed by another owner" in conflict.err
    dry = await repository.apply("--dry-run")
    assert (dry.code, f"! tool {repository.tool}-theirs (managed by another owner)" in dry.out) == (1, True)
    assert await state(scene) == before
    assert (await repository.apply("--force")).code == 0


async def test_eight_applies_at_once_end_in_exactly_what_the_file_says(scene: Scene, repository: Repository) -> None:
    tools = {f"{repository.tool}-{n}": repository.fields("http://127.0.0.1:9/", timeout_ms=500 + n) for n in range(5)}
    policies = {f"{scene.agent}-{n}": {"max_actions_per_hour": n} for n in range(5)}
    repository.write(tools, policies)
    ended = await asyncio.gather(*(repository.apply("--json") for _ in range(8)))
    assert [one.code for one in ended] == [0] * 8, [one.err for one in ended]
    for name in (*tools, *policies):
        assert sorted(one.actions[name] for one in ended) == ["create", *["unchanged"] * 7]
    shown = {tool["name"]: tool for tool in await scene.ask("GET", "/v1/tools")}
    assert [shown[name]["timeout_ms"] for name in tools] == [500, 501, 502, 503, 504]
    for n in range(5):
        held = await scene.ask("GET", f"/v1/policies/{scene.agent}-{n}")
        assert (held["policy"], held["managed_by"]) == ({"max_actions_per_hour": n}, repository.owner)


async def test_no_secret_is_printed_logged_or_stored_in_clear(scene: Scene, repository: Repository) -> None:
    credential = {"header": "X-Key", "value": "env:PAY_KEY"}
    fields = repository.fields("http://127.0.0.1:9/", upstream_credential=credential)
    repository.write({repository.tool: fields})
    ended = [await repository.apply(*how) for how in (("--dry-run",), ("--json",), (), ("--dry-run", "--json"))]
    new = {"PAY_SECRET": SECRET[::-1], "PAY_KEY": KEY_OF_TOOL[::-1]}
    ended += [await repository.apply(*how, environment=new) for how in (("--dry-run", "--json"), ("--json",))]
    wrong = {"PAY_SECRET": "shorty!", "PAY_KEY": f"{KEY_OF_TOOL}\n{SECRET}"}
    ended.append(await repository.apply(environment=wrong))
    assert [one.code for one in ended] == [0, 0, 0, 0, 0, 0, 2]
    assert '"secret",\n          "changed": true' in ended[4].out
    async with Redis.from_url(scene.first.redis_url) as raw:
        stored = [await raw.dump(name) for name in await raw.keys("*")]
    said = [one.out + one.err for one in ended] + [dev.log.read_text() for dev in scene.both]
    for secret in (SECRET, KEY_OF_TOOL, SECRET[::-1], KEY_OF_TOOL[::-1], SECRET[-6:], KEY_OF_TOOL[-6:], "shorty!"):
        assert not [text for text in said if secret in text]
        assert not [value for value in stored if value and secret.encode() in value]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tools: {a: {url: 'https://a.example', auth: {secret: plain-secret}}}", "write env:NAME or file:/path"),
        ("tools: {a: {url: 'https://a.example', auth: {secret: *plain-secret}}}", "found undefined alias …"),
        ("tools: {a: {url: 'https://a.example', auth: {secret: !plain-secret x}}}", "tags (!…) are not taken"),
        ("tools: {a: {url: 'https://a.example', auth: {secret: 'env:plain-secret'}}}", "no variable's name"),
        ("tools: {a: {url: 'https://a.example', auth: {secrte: plain-secret}}}", "unknown key; did you mean secret?"),
        ("", "there is nothing in it"),
    ],
    ids=ascii,
)
async def test_files_that_will_not_do_are_wrong_usage_and_show_no_value(
    repository: Repository, text: str, told: str
) -> None:
    (repository.folder / "a.yaml").write_text(text)
    ended = await repository.apply()
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert "plain-secret" not in ended.err
    assert "Traceback" not in ended.err


async def test_a_tool_disabled_by_hand_stays_so_and_the_command_says_it(scene: Scene, repository: Repository) -> None:
    repository.write({repository.tool: {"url": "http://127.0.0.1:9/", "enabled": True}})
    await repository.apply()
    await scene.ask("POST", f"/v1/tools/{repository.tool}/toggle", {"enabled": False})
    ended = await repository.apply()
    assert ended.code == 0
    assert f"! tool {repository.tool}: stays off, it was disabled by hand" in ended.out
    assert (await scene.call(repository.tool, b"x")).json["reason"] == "tool_disabled"


async def test_a_deleted_policy_leaves_the_default_and_deleting_it_again_is_told(scene: Scene, tool: Tool) -> None:
    name = await scene.register(tool.url)
    await scene.policy(blocked_tools=["*"])
    assert (await scene.call(name, b"one")).status == 403
    assert await scene.ask("DELETE", f"/v1/policies/{scene.agent}", at=scene.second) == {"ok": True, "deleted": True}
    assert (await scene.call(name, b"one")).status == 200
    again = await scene.operator.delete(f"{scene.first.url}/v1/policies/{scene.agent}")
    assert (again.status_code, again.json()["detail"]["error"]) == (404, "policy_not_found")
    assert [event["verdict"] for event in await scene.events("policy")] == ["SET", "DELETED"]


async def test_a_body_without_tools_and_policies_does_not_ask_for_none_to_be_left(
    scene: Scene, repository: Repository
) -> None:
    repository.write({repository.tool: {"url": "http://127.0.0.1:9/"}})
    assert (await repository.apply()).code == 0
    for body in ({"owner": repository.owner}, {"owner": repository.owner, "dry_run": True}):
        refused = await scene.operator.post(f"{scene.first.url}/v1/apply", json=body)
        assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "tools"])
    assert repository.tool in {found["name"] for found in await scene.ask("GET", "/v1/tools")}
    emptied = await scene.ask("POST", "/v1/apply", {"owner": repository.owner, "tools": {}})
    assert [change["action"] for change in emptied["changes"]] == ["delete"]
