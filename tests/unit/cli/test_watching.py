"""A folder that is watched: real files and links, the engine's side scripted, and looks taken one by one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from interlock.cli import watching
from interlock.cli.watching import APPLIED, FAILING, PENDING, REFUSED_RETRY_S, RETRY_S, Looked, Watcher
from interlock.governance.errors import ConflictError, InterlockError, UnavailableError
from interlock.governance.v1 import configuration_pb2 as pb
from interlock.proxy.metrics import Metrics

URL = "https://pay.example/charge"


class Engine:
    """Keeps what it is asked to apply, and fails if it is told to."""

    def __init__(self) -> None:
        self.asked: list[pb.ApplyRequest] = []
        self.error: InterlockError | None = None

    async def apply(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return pb.ApplyResponse()

    @property
    def tools(self) -> list[str]:
        """Those of the last request."""
        return sorted(put.tool.name for put in self.asked[-1].tools)


class Scene:
    """A watched folder. `settle` looks as often as it takes to act on what is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "watched"
        self.folder.mkdir()
        self.engine, self.metrics, self.now = Engine(), Metrics(), 1000.0
        self.watcher = self.watching(self.folder)

    def watching(self, *paths: Path, **how: Any) -> Watcher:
        return Watcher(paths, self.engine.apply, self.metrics, clock=lambda: self.now, **how)

    def write(self, name: str = "a.yaml", *tools: str, owner: str = "team") -> None:
        (self.folder / name).write_text(json.dumps({"owner": owner, "tools": {tool: {"url": URL} for tool in tools}}))

    async def settle(self) -> int:
        """How often the engine was asked."""
        before = len(self.engine.asked)
        for _ in range(3):
            await self.watcher.look()
        return len(self.engine.asked) - before

    def figures(self) -> Mapping[str, float]:
        body, _ = self.metrics.exposition("")
        families = text_string_to_metric_families(body.decode())
        return {sample.name: sample.value for family in families for sample in family.samples}

    @property
    def errors(self) -> float:
        return self.figures()["interlock_manifest_errors_total"]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_what_is_there_is_applied_once_it_has_come_to_rest_and_not_again(scene: Scene) -> None:
    scene.write("a.yaml", "one")
    await scene.watcher.look()
    assert (scene.engine.asked, scene.watcher.state) == ([], PENDING)
    await scene.watcher.look()
    assert (scene.engine.tools, scene.watcher.state, scene.watcher.looked.is_set()) == (["one"], APPLIED, True)
    assert await scene.settle() == 0
    assert scene.figures()["interlock_manifest_last_success_timestamp_seconds"] > 0


async def test_a_file_that_is_being_written_is_not_taken_for_a_shorter_one(scene: Scene) -> None:
    scene.write("a.yaml", "one", "two")
    await scene.settle()
    for half in ("", "owner: team\n", f"owner: team\ntools:\n  one: {{url: '{URL}'}}\n"):
        (scene.folder / "a.yaml").write_text(half)
        await scene.watcher.look()
    assert len(scene.engine.asked) == 1
    scene.write("a.yaml", "one", "two", "three")
    assert (await scene.settle(), scene.engine.tools) == (1, ["one", "three", "two"])


async def test_a_configmap_whose_link_is_turned_is_taken_whole(scene: Scene) -> None:
    """As the kubelet does it: `..data` is a link to a folder of that version, and every file a link through it."""
    for version, tools in (("..v1", ["one"]), ("..v2", ["one", "two"])):
        (scene.folder / version).mkdir()
        scene.write(f"{version}/a.yaml", *tools)
    (scene.folder / "..data").symlink_to("..v1")
    (scene.folder / "a.yaml").symlink_to("..data/a.yaml")
    assert (await scene.settle(), scene.engine.tools) == (1, ["one"])
    (scene.folder / "..data_tmp").symlink_to("..v2")
    (scene.folder / "..data_tmp").rename(scene.folder / "..data")
    assert (await scene.settle(), scene.engine.tools) == (1, ["one", "two"])


async def test_a_watched_path_that_is_itself_a_link_is_followed_when_it_turns(scene: Scene, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text(f"owner: team\ntools: {{{version}: {{url: '{URL}'}}}}")
    (tmp_path / "current").symlink_to("v1")
    scene.watcher = scene.watching(tmp_path / "current")
    assert (await scene.settle(), scene.engine.tools) == (1, ["v1"])
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(tmp_path / "current")
    assert (await scene.settle(), scene.engine.tools) == (1, ["v2"])


async def test_an_editor_that_renames_over_a_file_is_noticed(scene: Scene) -> None:
    scene.write("a.yaml", "one")
    await scene.settle()
    scene.write("a.yaml.swp", "one", "two")
    (scene.folder / "a.yaml.swp").rename(scene.folder / "a.yaml")
    assert (await scene.settle(), scene.engine.tools) == (1, ["one", "two"])


@pytest.mark.parametrize(
    "text",
    ["", "tools: [", "tools: {a: {url: x}}", "tools: {a: {url: 'https://a.example', auth: {secret: env:NOT_THERE}}}"],
)
async def test_a_broken_file_asks_for_nothing_and_is_told_once(scene: Scene, text: str) -> None:
    scene.write("a.yaml", "one")
    await scene.settle()
    (scene.folder / "b.yaml").write_text(text or "# nothing")
    if not text:
        (scene.folder / "a.yaml").unlink()
    assert (await scene.settle(), scene.watcher.state, scene.errors) == (0, FAILING, 1)
    scene.now += 10 * REFUSED_RETRY_S
    assert (await scene.settle(), scene.errors) == (0, 1)
    scene.write("a.yaml", "one")
    (scene.folder / "b.yaml").unlink()
    assert (await scene.settle(), scene.watcher.state) == (1, APPLIED)


@pytest.mark.parametrize("gone", ["file", "folder"])
async def test_what_is_gone_removes_nothing(scene: Scene, gone: str) -> None:
    scene.write("a.yaml", "one")
    await scene.settle()
    (scene.folder / "a.yaml").unlink()
    if gone == "folder":
        scene.folder.rmdir()
    assert (await scene.settle(), scene.watcher.state) == (0, FAILING)


async def test_a_secret_that_is_rotated_in_its_file_is_sent_anew(scene: Scene, tmp_path: Path) -> None:
    secret = tmp_path / "pay"
    secret.write_text("first-secret\n")
    text = f"owner: team\ntools: {{a: {{url: '{URL}', auth: {{secret: 'file:{secret}'}}}}}}"
    (scene.folder / "a.yaml").write_text(text)
    assert (await scene.settle(), scene.engine.asked[-1].tools[0].secret) == (1, "first-secret")
    secret.write_text("second-secret\n")
    assert (await scene.settle(), scene.engine.asked[-1].tools[0].secret) == (1, "second-secret")
    secret.unlink()
    assert (await scene.settle(), scene.watcher.state) == (0, FAILING)
    secret.write_text("third-secret\n")
    assert (await scene.settle(), scene.engine.asked[-1].tools[0].secret) == (1, "third-secret")


async def test_interlocks_own_files_are_sent_to_no_tool(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "master.key").write_text("m1:the-master-key")
    text = f"tools: {{a: {{url: '{URL}', auth: {{secret: 'file:{tmp_path}/own/master.key'}}}}}}"
    (scene.folder / "a.yaml").write_text(text)
    scene.watcher = scene.watching(scene.folder, own=[tmp_path / "own"])
    assert (await scene.settle(), scene.watcher.state) == (0, FAILING)


async def test_an_engine_that_cannot_is_asked_again_until_it_can(scene: Scene) -> None:
    scene.engine.error = UnavailableError("governance_unavailable", "Redis cannot be reached")
    scene.write("a.yaml", "one")
    assert (await scene.settle(), scene.watcher.state, scene.errors) == (1, PENDING, 1)
    scene.now += RETRY_S
    assert await scene.settle() == 1
    scene.engine.error = None
    scene.now += RETRY_S
    assert (await scene.settle(), scene.watcher.state) == (1, APPLIED)


async def test_what_is_refused_is_asked_for_again_more_rarely(scene: Scene) -> None:
    scene.engine.error = ConflictError("managed_by_another", "managed by another owner: tool one (others)")
    scene.write("a.yaml", "one")
    assert (await scene.settle(), scene.watcher.state) == (1, FAILING)
    scene.now += RETRY_S
    assert await scene.settle() == 0
    scene.now += REFUSED_RETRY_S
    assert await scene.settle() == 1


async def test_no_secret_gets_into_the_log(scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("PAY", "hunter2")
    for secret in ("hunter2-hunter2", "env:PAY", "env:hunter2 x"):
        (scene.folder / "a.yaml").write_text(f"tools: {{a: {{url: '{URL}', auth: {{secret: '{secret}'}}}}}}")
        await scene.settle()
    assert scene.errors == 3
    told = capsys.readouterr()
    assert "tools.a.auth.secret" in told.out + told.err
    assert "hunter2" not in told.out + told.err


async def test_a_failure_that_nobody_thought_of_does_not_end_the_watching(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_sleep(_: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise KeyboardInterrupt

    rounds = 0
    monkeypatch.setattr(watching.asyncio, "sleep", no_sleep)
    monkeypatch.setattr(watching.manifest, "load", lambda *_, **__: 1 / 0)
    scene.write("a.yaml", "one")
    with pytest.raises(KeyboardInterrupt):
        await scene.watcher.watch()
    assert (scene.errors, scene.watcher.state) == (1, FAILING)


async def test_an_engine_is_ready_once_it_has_looked_also_at_what_is_broken(scene: Scene) -> None:
    class Serving:
        async def why_not(self) -> str:
            return ""

    ready = Looked(scene.watcher, Serving())
    assert await ready.why_not() == "manifests_pending"
    (scene.folder / "a.yaml").write_text("tools: [")
    await scene.settle()
    assert (await ready.why_not(), scene.watcher.state) == ("", FAILING)
