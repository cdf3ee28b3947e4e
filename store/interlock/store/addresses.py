"""Where Redis is: what `redis.url` says.

| form                                                                | what it names                             |
|---------------------------------------------------------------------|-------------------------------------------|
| `redis://HOST:PORT/DB`, `unix:///PATH?db=DB`                         | one Redis                                 |
| `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB`                    | the master that these sentinels know      |
| `redis+cluster://HOST:PORT,HOST:PORT`                                | a cluster, by some of its nodes           |

`rediss` for `redis` is TLS, to the sentinels, too. User and password stand before the first host and are those of
Redis; the sentinels' own are `?sentinel_username=…&sentinel_password=…`. All are percent-encoded.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio.connection import parse_url

FORMS = (
    "must be redis://HOST, rediss://HOST, unix:///PATH, redis+sentinel://HOST,HOST/SERVICE or redis+cluster://HOST,HOST"
)
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


class Kind(StrEnum):
    """What stands behind an address."""

    ONE = "redis"
    SENTINELS = "sentinel"
    CLUSTER = "cluster"


_PORTS = {Kind.SENTINELS: 26379, Kind.CLUSTER: 6379}


@dataclass(frozen=True, slots=True)
class Node:
    """A server: a host and a port, or the path of a unix socket."""

    host: str
    port: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says. `nodes` are the Redis itself, the sentinels, or some nodes of the cluster."""

    kind: Kind
    nodes: tuple[Node, ...]
    tls: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    service: str = ""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)


def address_of(url: str) -> Address:
    """Reads a URL. Raises ValueError, whose text says what is wrong and repeats nothing of the URL."""
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if kind in (Kind.SENTINELS, Kind.CLUSTER) and scheme in ("redis", "rediss"):
            return _of_many(parts, Kind(kind), tls=scheme == "rediss")
        place = parts.path if parts.scheme == "unix" else parts.port != 0 and parts.hostname
        if parts.scheme in {"redis", "rediss", "unix"} and place:
            return _of_one(cast("dict[str, Any]", parse_url(url)), tls=scheme == "rediss")
    except _WrongUrlError as wrong:
        raise ValueError(str(wrong)) from None
    except ValueError:  # its text would show the part of a password that was taken for a port
        pass
    raise ValueError(FORMS)


class _WrongUrlError(ValueError):
    """Its text is safe to show."""


def _of_one(place: dict[str, Any], *, tls: bool) -> Address:
    node = Node(place.get("host", "localhost"), int(place.get("port", 6379)), place.get("path", ""))
    user, password = place.get("username") or "", place.get("password") or ""
    return Address(Kind.ONE, (node,), tls, user, password, int(place.get("db") or 0))


def _of_many(parts: SplitResult, kind: Kind, *, tls: bool) -> Address:
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    nodes = tuple(_node(host, _PORTS[kind]) for host in hosts.split(","))
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    service, database = _below(parts.path, kind)
    if unknown := options.keys() - (SENTINEL_OPTIONS if kind is Kind.SENTINELS else ()):
        raise _WrongUrlError(f"knows no option {', '.join(sorted(unknown))} in a {kind} URL")
    return Address(kind, nodes, tls, unquote(user), unquote(password), database, service, **options)


def _node(host: str, port: int) -> Node:
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.port == 0:
        raise _WrongUrlError(f"must name hosts, separated by commas, each with a port from 1 to 65535 or none ({port})")
    return Node(parts.hostname, parts.port or port)


def _below(path: str, kind: Kind) -> tuple[str, int]:
    """Service and database."""
    first, _, rest = path.removeprefix("/").partition("/")
    if kind is Kind.CLUSTER:
        if first not in ("", "0") or rest:
            raise _WrongUrlError("must name no database but 0: a cluster has no other")
        return "", 0
    if not first:
        raise _WrongUrlError("must name the service that the sentinels watch: redis+sentinel://HOST,HOST/SERVICE")
    if rest and not rest.isdecimal():
        raise _WrongUrlError("must end with the number of a database: redis+sentinel://HOST,HOST/SERVICE/DB")
    return unquote(first), int(rest or 0)
