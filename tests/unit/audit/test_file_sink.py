"""Files on a real disk: whole lines, in order, none lost, whatever breaks."""

import asyncio
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.audit.ports import SinkUnavailableError
from interlock.audit.settings import FileSettings
from interlock.audit.sinks.file import FileSink

BATCH = [b'{"n":1}', b'{"n":2}']
HOLDER = """
import fcntl, os, sys
lock = os.open(sys.argv[1] + "/.lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
FULL = """
import asyncio, resource, sys
from pathlib import Path
from interlock.audit.ports import SinkUnavailableError
from interlock.audit.settings import FileSettings
from interlock.audit.sinks.file import FileSink

async def main():
    sink = FileSink(FileSettings(folder=Path(sys.argv[1])))
    await sink.deliver([b"a" * 1000])
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
    for _ in range(3):
        try:
            await sink.deliver([b"b" * 1000, b"c" * 1000])
        except SinkUnavailableError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await sink.deliver([b"b" * 1000, b"c" * 1000])

asyncio.run(main())
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1_767_225_600.0

    def __call__(self) -> float:
        return self.now


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*.jsonl"))


def sink_on(folder: Path, clock: Clock | None = None, **settings: int) -> FileSink:
    return FileSink(FileSettings(folder=folder, **settings), clock or Clock())


async def test_each_exporter_begins_a_file_of_its_own_that_nobody_else_may_read(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "audit"
    for _ in range(2):
        sink = sink_on(folder)
        for _ in range(2):
            await sink.deliver(BATCH)
        await sink.close()
    names = [file.name for file in files(folder)]
    assert names == ["audit-20260101T000000000Z.jsonl", "audit-20260101T000000001Z.jsonl"]
    assert folder.stat().st_mode & 0o777 == 0o700
    for file in files(folder):
        assert file.read_bytes() == b'{"n":1}\n{"n":2}\n' * 2
        assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("torn", [b'{"n":3', b"x" * 200_000, b'{"n":3}\n{"n":'])
async def test_a_torn_line_is_cut_off_and_whole_ones_are_kept(tmp_path: Path, torn: bytes) -> None:
    sink = sink_on(tmp_path)
    await sink.deliver(BATCH)
    await sink.close()
    (file,) = files(tmp_path)
    with file.open("ab") as broken:
        broken.write(torn)
    await sink.deliver([b'{"n":4}'])
    whole = torn[: torn.rfind(b"\n") + 1]
    assert file.read_bytes() == b'{"n":1}\n{"n":2}\n' + whole
    assert files(tmp_path)[1].read_bytes() == b'{"n":4}\n'
    await sink.close()


async def test_a_file_of_nothing_but_a_torn_line_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "audit-20260101T000000000Z.jsonl").write_bytes(b'{"n":')
    sink = sink_on(tmp_path)
    await sink.deliver(BATCH)
    assert files(tmp_path)[0].read_bytes() == b'{"n":1}\n{"n":2}\n'
    await sink.close()


async def test_a_new_file_begins_by_size_and_by_age_and_names_sort_by_time(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_on(tmp_path, clock, rotate_bytes=4096, rotate_s=100)
    for number, later_s in enumerate([0, 0, 0, 150, 10, -500, 0]):
        clock.now += later_s
        await sink.deliver([b"%d" % number + b"." * 3000])
    assert [file.read_bytes()[:1] for file in files(tmp_path)] == [b"%d" % number for number in range(7)]
    await sink.close()


async def test_a_batch_larger_than_a_file_is_a_file(tmp_path: Path) -> None:
    sink = sink_on(tmp_path, rotate_bytes=4096)
    for _ in range(2):
        await sink.deliver([b"." * 10_000] * 3)
    assert [file.stat().st_size for file in files(tmp_path)] == [30_003, 30_003]
    await sink.close()


async def test_a_folder_that_another_process_writes_to_is_not_written_to(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: ASYNC220 - it starts at once
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    sink = sink_on(tmp_path)
    with pytest.raises(SinkUnavailableError, match="in use by another exporter"):
        await sink.deliver(BATCH)
    assert files(tmp_path) == []
    holder.stdin.close()
    holder.wait(10)
    holder.stdout.close()
    await sink.deliver(BATCH)
    await sink.close()


def test_a_full_disk_is_waited_for_and_leaves_no_half_line_behind(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.count("File too large") == 3
    (file,) = files(tmp_path)
    lines = file.read_bytes().splitlines()
    assert {len(line) for line in lines} == {1000}
    assert b"".join(line[:1] for line in lines) in {b"abbbbc", b"abbbc", b"abbc", b"abc"}, "repeats, and nothing else"


@pytest.mark.parametrize("trouble", ["a file in its place", "no such device"])
async def test_a_folder_that_cannot_be_is_unavailable_until_it_can(tmp_path: Path, trouble: str) -> None:
    place = tmp_path / "audit"
    place.write_text("") if trouble == "a file in its place" else place.symlink_to(tmp_path / "gone")
    sink = sink_on(place)
    with pytest.raises(SinkUnavailableError, match="audit"):
        await sink.deliver(BATCH)
    place.unlink()
    await sink.deliver(BATCH)
    assert len(files(place)) == 1
    await sink.close()


@pytest.mark.parametrize("done", ["removed", "moved away", "replaced", "cut", "its folder removed"])
async def test_what_went_to_a_file_that_others_took_away_is_not_acknowledged(tmp_path: Path, done: str) -> None:
    folder = tmp_path / "audit"
    sink = sink_on(folder)
    await sink.deliver(BATCH)
    (file,) = files(folder)
    match done:
        case "removed":
            file.unlink()
        case "moved away":
            file.rename(tmp_path / file.name)
        case "replaced":
            file.rename(tmp_path / file.name)
            file.write_bytes(b"")
        case "cut":
            os.truncate(file, 0)
        case _:
            shutil.rmtree(folder)
    with pytest.raises(SinkUnavailableError, match=r"removed, replaced or cut"):
        await sink.deliver([b'{"n":3}'])
    await sink.deliver([b'{"n":3}'])
    *_, newest = files(folder)
    assert newest.read_bytes() == b'{"n":3}\n'
    assert newest.name > file.name or done == "replaced", "it sorts behind what was there"
    await sink.close()


async def test_a_disk_that_hangs_blocks_neither_the_process_nor_its_end(tmp_path: Path) -> None:
    """A pipe in the place of the newest file: whoever opens it to write waits for a reader that never comes."""
    os.mkfifo(tmp_path / "audit-20260101T000000000Z.jsonl")
    sink = sink_on(tmp_path)
    sink._writer._jobs.put(lambda: open(tmp_path / "audit-20260101T000000000Z.jsonl", "wb").close())  # noqa: PTH123 - to hang
    delivering = asyncio.create_task(sink.deliver(BATCH))
    await asyncio.sleep(0.05)
    assert not delivering.done()
    delivering.cancel()
    await sink.close()
    os.close(os.open(tmp_path / "audit-20260101T000000000Z.jsonl", os.O_RDONLY | os.O_NONBLOCK))


def test_limits_of_the_platform_are_as_the_tests_need_them() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
