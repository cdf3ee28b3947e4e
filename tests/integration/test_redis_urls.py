"""Redis by URL: unix, tcp and TLS, with user, password and database, for decisions and for subscriptions."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from interlock.governance.errors import UnavailableError
from interlock.policy.model import Switch
from interlock.store import keys
from interlock.store.opening import open_store
from interlock.store.settings import RedisSettings
from tests.certificates import Authority
from tests.conformance.conftest import Silent
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


def serving(authority: Authority, name: str) -> ssl.SSLContext:
    certificate, key = authority.issue(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
