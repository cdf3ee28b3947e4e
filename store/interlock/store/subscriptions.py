"""redis-py's clients for what Pipes are not for: sentinels, and subscriptions, which wait for what may never come."""

from collections.abc import AsyncIterator
from typing import Any

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from interlock.store.addresses import Node
from interlock.store.link import unavailable
from interlock.store.settings import RedisSettings

LISTEN_S = 2.0
"""Nothing heard for so long, a subscription is asked whether it lives; a machine that vanished says no good-bye."""


def subscriber(settings: RedisSettings, node: Node) -> redis.Redis:
    """A client of Redis that waits for an answer as long as it takes."""
    address = settings.address
    place: dict[str, Any] = {"unix_socket_path": node.path} if node.path else {"host": node.host, "port": node.port}
    return redis.Redis(
        **place,
        db=address.database,
        username=address.username or None,
        password=address.password or None,
        socket_timeout=None,
        **client_options(settings),
    )


def client_options(settings: RedisSettings) -> dict[str, Any]:
    """What every client of ours is given: one attempt in time, and TLS where the URL says so."""
    files = {"ssl_ca_certs": settings.tls_ca_file, "ssl_certfile": settings.tls_cert_file}
    files["ssl_keyfile"] = settings.tls_key_file
    tls = {"ssl": True, **{name: value for name, value in files.items() if value}} if settings.address.tls else {}
    patience = settings.connect_timeout_ms / 1000
    return {"socket_connect_timeout": patience, "retry": Retry(NoBackoff(), 0), "protocol": 2, **tls}


async def messages(listener: Any) -> AsyncIterator[bytes]:
    """What is published. Raises UnavailableError once the connection is lost, or silent and not answering."""
    silent = False
    try:
        while True:
            message = await listener.get_message(timeout=LISTEN_S)
            if message is None and silent:
                raise RedisConnectionError("a subscription does not answer")
            if message is None:
                await listener.ping()
            elif message["type"] == "message":
                yield message["data"]
            silent = message is None
    except (RedisError, OSError) as error:
        raise unavailable() from error
