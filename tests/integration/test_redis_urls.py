"""Redis by URL: unix, tcp and TLS, with user, password and database, for decisions and for subscriptions."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from redis.asyncio import Redis

from interlock.governance.errors import UnavailableError
from interlock.policy.model import Switch
from interlock.store import keys
from interlock.store.opening import open_store
from interlock.store.settings import RedisSettings
from tests.certificates import Authority
from tests.conformance.conftest import Silent
from tests.interlock_dev import free_port
from tests.redis_nodes import RedisNode
from tests.redis_server import RedisServer

PASSWORD = "a pass:word/with@signs"
QUOTED = "a%20pass%3Aword%2Fwith%40signs"


@pytest.fixture
async def guarded(own_redis: RedisServer) -> AsyncIterator[str]:
    """A Redis that lets in the default user and `engine`, by password only. Its socket's path."""
    async with Redis.from_url(own_redis.url) as raw:
        await raw.execute_command("ACL", "SETUSER", "engine", "on", f">{PASSWORD}", "~il:*", "+@all")
        await raw.config_set("requirepass", PASSWORD)
    yield own_redis.url.removeprefix("unix://")
    async with Redis.from_url(f"unix://:{QUOTED}@{own_redis.url.removeprefix('unix://')}") as raw:
        await raw.config_set("requirepass", "")


@contextlib.asynccontextmanager
async def tcp_to(path: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A TCP port, with TLS or not, that leads to a unix socket."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(carry(reader, redis_writer), carry(redis_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def works(settings: RedisSettings, path: str, database: int) -> bool:
    """Whether a script and a subscription get through, and to that database."""
    async with (
        open_store(settings, Silent()) as store,
        Redis.from_url(f"unix://:{QUOTED}@{path}?db={database}") as raw,
    ):
        await store.directory.set_switch("acme", Switch(True))
        async with store.ledger.settled() as settled:
            await raw.publish(keys.SETTLED_CHANNEL, "call")
            heard = await anext(aiter(settled))
        return heard == "call" and await raw.keys("*") != []


async def test_a_unix_socket_with_password_and_database(guarded: str) -> None:
    assert await works(RedisSettings(url=f"unix://:{QUOTED}@{guarded}?db=3"), guarded, 3)


async def test_tcp_with_user_password_and_database(guarded: str) -> None:
    async with tcp_to(guarded) as port:
        assert await works(RedisSettings(url=f"redis://engine:{QUOTED}@127.0.0.1:{port}/2"), guarded, 2)


async def test_tls_by_an_authority_of_ones_own(guarded: str, tmp_path: Path) -> None:
    async with tcp_to(guarded, serving(Authority(tmp_path, "ca"), "redis")) as port:
        url = f"rediss://:{QUOTED}@127.0.0.1:{port}/1"
        assert await works(RedisSettings(url=url, tls_ca_file=str(tmp_path / "ca.pem")), guarded, 1)


async def test_tls_by_another_authority_is_no_redis(guarded: str, tmp_path: Path) -> None:
    async with tcp_to(guarded, serving(Authority(tmp_path, "ca"), "redis")) as port:
        other = Authority(tmp_path, "other").file
        settings = RedisSettings(url=f"rediss://:{QUOTED}@127.0.0.1:{port}", tls_ca_file=str(other))
        async with open_store(settings, Silent()) as store:
            with pytest.raises(UnavailableError):
                await store.directory.epochs("acme")


@pytest.mark.parametrize("credentials", ["", ":wrong@", "engine:wrong@", "nobody:wrong@"])
async def test_without_the_right_password_there_is_no_redis_and_it_is_not_told(guarded: str, credentials: str) -> None:
    async with open_store(RedisSettings(url=f"unix://{credentials}{guarded}"), Silent()) as store:
        with pytest.raises(UnavailableError) as refused:
            await store.directory.epochs("acme")
    assert "wrong" not in refused.value.message


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[RedisNode]:
    """One that watches nothing."""
    node = RedisNode(tmp_path, sentinel="sentinel deny-scripts-reconfig yes")
    node.start()
    yield node
    node.kill()


async def test_a_sentinel_that_is_named_as_a_redis_is_told_from_one(sentinel: RedisNode) -> None:
    async with open_store(RedisSettings(url=f"redis://127.0.0.1:{sentinel.port}"), Silent()) as store:
        assert (
            await store.directory.check() == "redis.url names a sentinel: it must be redis+sentinel://HOST,HOST/SERVICE"
        )


async def test_a_node_of_a_cluster_that_is_named_as_a_redis_is_told_from_one(tmp_path: Path) -> None:
    node = RedisNode(tmp_path, ("--cluster-enabled", "yes"))
    node.start()
    try:
        async with open_store(RedisSettings(url=f"redis://127.0.0.1:{node.port}"), Silent()) as store:
            told = await store.directory.check()
        assert told == "redis.url names a node of a cluster: it must be redis+cluster://HOST,HOST"
    finally:
        node.kill()


async def test_a_service_that_no_sentinel_knows_is_no_redis_and_the_log_says_so(sentinel: RedisNode) -> None:
    url = f"redis+sentinel://127.0.0.1:{sentinel.port},127.0.0.1:{free_port()}/nobody"
    with structlog.testing.capture_logs() as logs:
        async with open_store(RedisSettings(url=url), Silent()) as store:
            with pytest.raises(UnavailableError):
                await store.directory.epochs("acme")
    assert [entry["why"] for entry in logs] == ["none of 2 sentinels knows a master 'nobody' that is up"]


async def test_a_redis_that_is_named_as_a_cluster_is_none_and_the_log_says_so(tmp_path: Path) -> None:
    node = RedisNode(tmp_path)
    node.start()
    try:
        with structlog.testing.capture_logs() as logs:
            async with open_store(RedisSettings(url=f"redis+cluster://127.0.0.1:{node.port}"), Silent()) as store:
                with pytest.raises(UnavailableError):
                    await store.directory.epochs("acme")
    finally:
        node.kill()
    assert [entry["why"] for entry in logs] == ["ERR This instance has cluster support disabled"]


def serving(authority: Authority, name: str) -> ssl.SSLContext:
    certificate, key = authority.issue(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
