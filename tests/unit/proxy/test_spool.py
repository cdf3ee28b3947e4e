import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from interlock.governance.errors import ConflictError, InternalError, InvalidRequestError, UnavailableError
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy import outcomes
from interlock.proxy import spool as module
from interlock.proxy.metrics import Metrics
from interlock.proxy.spool import Spool


class Engine:
    """Takes settlements, or says why not."""

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.taken: list[str] = []
        self.asked = 0
        self._news = asyncio.Condition()

    async def take(self, settlement: pb.SettleRequest) -> None:
        async with self._news:
            self.asked += 1
            self._news.notify_all()
            if error := self.errors.get(settlement.permit.call_id, self.errors.get("*")):
                raise error
            self.taken.append(settlement.permit.call_id)

    async def until(self, *, taken: int = 0, asked: int = 0) -> None:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: len(self.taken) >= taken and self.asked >= asked)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(outcomes, "LAST_BACKOFF_S", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "spool"


class Depth(Metrics):
    """Tells when nothing waits any more: the file of what was delivered is gone by then."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = asyncio.Event()

    def spool_depth(self, settlements: int) -> None:
        super().spool_depth(settlements)
        if settlements == 0:
            self.zero.set()
        else:
            self.zero.clear()


@pytest.fixture
def depth() -> Depth:
    return Depth()


@asynccontextmanager
async def spooling(folder: Path, engine: Engine, depth: Depth | None = None) -> AsyncIterator[Spool]:
    spool = Spool(folder, engine.take, depth or Metrics())
    await spool.start()
    try:
        yield spool
    finally:
        await spool.close()


def settlement(call_id: str) -> pb.SettleRequest:
    return pb.SettleRequest(permit=pb.Permit(call_id=call_id), outcome=pb.OUTCOME_SUCCEEDED)


def put(folder: Path, name: str, content: bytes) -> bytes:
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    return content


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


DOWN = UnavailableError("governance_unavailable", "down")


async def test_a_kept_settlement_is_a_file_that_only_its_owner_may_read(folder: Path) -> None:
    engine = Engine()
    engine.errors["*"] = DOWN
    async with spooling(folder, engine) as spool:
        await spool.keep(settlement("call_1"))
        [file] = files(folder)
        assert (mode(file), mode(folder)) == (0o600, 0o700)
        assert pb.SettleRequest.FromString(file.read_bytes()) == settlement("call_1")


async def test_it_is_delivered_as_soon_as_the_engine_is_back(folder: Path, depth: Depth) -> None:
    engine = Engine()
    engine.errors["*"] = DOWN
    async with spooling(folder, engine, depth) as spool:
        await spool.keep(settlement("call_1"))
        await engine.until(asked=3)
        engine.errors.clear()
        await engine.until(taken=1)
        await depth.zero.wait()
    assert files(folder) == []
    assert engine.taken == ["call_1"]


async def test_it_survives_the_process(folder: Path, depth: Depth) -> None:
    engine = Engine()
    engine.errors["*"] = DOWN
    async with spooling(folder, engine) as spool:
        await spool.keep(settlement("call_1"))
        await spool.keep(settlement("call_2"))
    engine.errors.clear()
    async with spooling(folder, engine, depth):
        await engine.until(taken=2)
        await depth.zero.wait()
    assert files(folder) == []
    assert sorted(engine.taken) == ["call_1", "call_2"]


async def test_a_file_that_is_no_settlement_is_set_aside_and_holds_up_nobody(folder: Path) -> None:
    junk = put(folder, "junk.settlement", b"\xff\xff\xff")
    engine = Engine()
    async with spooling(folder, engine) as spool:
        await spool.keep(settlement("call_1"))
        await engine.until(taken=1)
    assert (folder / "rejected" / "junk.settlement").read_bytes() == junk


@pytest.mark.parametrize("error", [InvalidRequestError("invalid_request", "bad"), ConflictError("stale", "stale")])
async def test_what_the_engine_will_never_take_is_set_aside_not_lost(
    folder: Path, depth: Depth, error: Exception
) -> None:
    engine = Engine()
    engine.errors["call_1"] = error
    async with spooling(folder, engine, depth) as spool:
        await spool.keep(settlement("call_1"))
        await spool.keep(settlement("call_2"))
        await engine.until(taken=1)
        await depth.zero.wait()
    [aside] = (folder / "rejected").iterdir()
    assert pb.SettleRequest.FromString(aside.read_bytes()) == settlement("call_1")
    assert engine.taken == ["call_2"]


async def test_one_that_makes_the_engine_fail_does_not_hold_up_the_others(folder: Path) -> None:
    engine = Engine()
    engine.errors["call_1"] = InternalError("internal", "bug")
    async with spooling(folder, engine) as spool:
        await spool.keep(settlement("call_1"))
        await spool.keep(settlement("call_2"))
        await engine.until(taken=1)
        engine.errors.clear()
        await engine.until(taken=2)
    assert engine.taken == ["call_2", "call_1"]


async def test_a_disk_that_fails_does_not_lose_the_settlement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    async with spooling(folder, engine) as spool:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module.os, "fsync", full)
        await spool.keep(settlement("call_1"))
        await engine.until(taken=1)
    assert engine.taken == ["call_1"]


def block(folder: Path) -> None:
    """Puts a folder in the place of the one file, so that it can be neither read nor removed."""
    [file] = files(folder)
    file.unlink()
    file.mkdir()


async def test_a_file_that_cannot_be_removed_holds_up_nobody(folder: Path, depth: Depth) -> None:
    engine = Engine()
    engine.errors["*"] = DOWN
    async with spooling(folder, engine, depth) as spool:
        await spool.keep(settlement("call_1"))
        block(folder)
        engine.errors.clear()
        await spool.clear()
        await depth.zero.wait()
        await spool.keep(settlement("call_2"))
        await engine.until(taken=2)
    assert engine.taken == ["call_1", "call_2"]


async def test_a_file_that_cannot_be_read_does_not_keep_the_sidecar_from_starting(folder: Path) -> None:
    engine = Engine()
    put(folder, "call_1.settlement", b"")
    block(folder)
    async with spooling(folder, engine) as spool:
        await spool.keep(settlement("call_2"))
        await engine.until(taken=1)
    assert engine.taken == ["call_2"]


async def test_what_cannot_be_set_aside_holds_up_nobody(folder: Path, depth: Depth) -> None:
    engine = Engine()
    engine.errors["call_1"] = ConflictError("stale", "stale")
    put(folder, "rejected", b"a file where the folder should be")
    async with spooling(folder, engine, depth) as spool:
        await spool.keep(settlement("call_1"))
        await spool.keep(settlement("call_2"))
        await engine.until(taken=1)
        await depth.zero.wait()
    assert engine.taken == ["call_2"]


async def test_a_bug_in_delivering_one_ends_neither_the_task_nor_the_call_that_finds_it(folder: Path) -> None:
    engine = Engine()
    engine.errors["call_1"] = RuntimeError("bug")
    async with spooling(folder, engine) as spool:
        await spool.keep(settlement("call_1"))
        await spool.clear()
        await spool.keep(settlement("call_2"))
        await engine.until(taken=1)
        engine.errors.clear()
        await engine.until(taken=2)
    assert engine.taken == ["call_2", "call_1"]


def unjudged(call_id: str, outcome: "pb.Outcome.ValueType" = pb.OUTCOME_AMBIGUOUS) -> pb.RecordDegradedRequest:
    return pb.RecordDegradedRequest(call_id=call_id, key=call_id[-1] * 64, outcome=outcome)


class Recording(Engine):
    """Takes both kinds, whole."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []

    async def take(self, settlement: Any) -> None:
        if isinstance(settlement, pb.RecordDegradedRequest):
            await super().take(pb.SettleRequest(permit=pb.Permit(call_id=settlement.call_id)))
            self.told.append(settlement)
        else:
            await super().take(settlement)


async def test_an_unjudged_call_is_told_of_when_it_is_over_and_not_before(folder: Path, depth: Depth) -> None:
    engine = Recording()
    async with spooling(folder, engine, depth) as spool:
        await spool.begin(unjudged("call_1"))
        [file] = files(folder)
        assert (file.name, mode(file)) == ("call_1.degraded", 0o600)
        await spool.keep(settlement("call_2"))
        await engine.until(taken=1)
        assert engine.taken == ["call_2"]
        await spool.keep(unjudged("call_1", pb.OUTCOME_SUCCEEDED))
        await engine.until(taken=2)
        await depth.zero.wait()
    assert engine.told == [unjudged("call_1", pb.OUTCOME_SUCCEEDED)]
    assert files(folder) == []


async def test_one_whose_process_died_is_told_of_as_it_began(folder: Path, depth: Depth) -> None:
    engine = Recording()
    async with spooling(folder, engine) as spool:
        await spool.begin(unjudged("call_1"))
    async with spooling(folder, engine, depth):
        await engine.until(taken=1)
        await depth.zero.wait()
    assert engine.told == [unjudged("call_1")]


async def test_no_unjudged_call_begins_on_a_disk_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Recording()
    async with spooling(folder, engine) as spool:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            await spool.begin(unjudged("call_1"))
    assert engine.told == []


async def test_what_waits_is_found_by_its_key(folder: Path) -> None:
    engine = Recording()
    engine.errors["*"] = DOWN
    async with spooling(folder, engine) as spool:
        await spool.keep(unjudged("call_1"))
        await spool.keep(pb.SettleRequest(permit=pb.Permit(call_id="call_2", key="2" * 64)))
        assert spool.kept_under("1" * 64) == unjudged("call_1")
        assert isinstance(spool.kept_under("2" * 64), pb.SettleRequest)
        assert spool.kept_under("3" * 64) is None


async def test_no_link_in_the_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    engine = Recording()
    async with spooling(folder, engine) as spool:
        (folder / "call_1.degraded.part").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic"):
            await spool.begin(unjudged("call_1"))
    assert not (tmp_path / "elsewhere").exists()


async def test_what_a_former_process_did_not_finish_writing_is_cleared_away(folder: Path) -> None:
    put(folder, "call_1.degraded.part", b"\x0a")
    async with spooling(folder, Recording()):
        assert files(folder) == []


async def test_what_is_no_file_keeps_no_sidecar_from_starting(folder: Path, depth: Depth) -> None:
    put(folder, "call_1-a.settlement", settlement("call_1").SerializeToString())
    (folder / "call_2-a.settlement").mkdir()
    (folder / "call_3-a.settlement").symlink_to("nowhere")
    os.mkfifo(folder / "call_4-a.settlement")
    (folder / "call_5-a.settlement.part").mkdir()
    engine = Engine()
    async with spooling(folder, engine, depth):
        await engine.until(taken=1)
    assert engine.taken == ["call_1"]
