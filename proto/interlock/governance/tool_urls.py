"""Where a tool may be, as far as its URL says: an absolute http(s) or grpc(s) URL that must not lead into the host's
own workings. The engine judges it when a tool is registered, a sidecar again before it connects.
"""

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from yarl import URL

Address = IPv4Address | IPv6Address

HTTP_SCHEMES = frozenset({"http", "https"})
GRPC_SCHEMES = frozenset({"grpc", "grpcs"})
SCHEMES = HTTP_SCHEMES | GRPC_SCHEMES

_REFUSED_NETWORKS = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this host": Linux takes 0.0.0.0 for loopback
        "169.254.0.0/16",  # link-local, and the metadata services of most clouds
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "::/128",
        "fe80::/10",
        "ff00::/8",
        # Metadata services outside link-local: Alibaba, Oracle, Azure, AWS, Google.
        "100.100.100.200/32",
        "192.0.0.192/32",
        "168.63.129.16/32",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
    )
)
_URL_CHARACTERS = re.compile(r"[!-~]*")
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_LOOPBACK = IPv4Address("127.0.0.1")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL says of where a tool listens. `host` is in lower case and without brackets."""

    scheme: str
    host: str
    port: int


class ToolUrlError(ValueError):
    """What is wrong with a URL, said of `it`."""


def is_grpc(url: str) -> bool:
    """Whether a tool of this URL speaks gRPC."""
    return url.partition("://")[0].lower() in GRPC_SCHEMES


def place_of(url: str, schemes: frozenset[str] = SCHEMES) -> Place:
    """Where a URL leads. Errors: ToolUrlError."""
    if not _URL_CHARACTERS.fullmatch(url) or "\\" in url:
        raise ToolUrlError("it holds characters that must be percent-encoded")
    try:
        parts = URL(url, encoded=True)
        host, port = parts.raw_host, parts.port
    except ValueError as error:
        raise ToolUrlError(str(error)) from error
    if parts.scheme not in schemes or not host:
        raise ToolUrlError(f"it is not an absolute {', '.join(sorted(schemes))} URL")
    if parts.raw_user is not None or parts.raw_password is not None or "#" in url:
        raise ToolUrlError("it holds user information or a fragment")
    if not port:
        raise ToolUrlError("it names no port, as in grpc://host:port" if is_grpc(url) else "port 0 is none")
    if is_grpc(url) and (parts.raw_path not in ("", "/") or "?" in url):
        raise ToolUrlError("it holds a path: grpc://host:port is all, the agent's call names the method")
    return Place(parts.scheme, host.lower(), port)


def problem_of_url(
    url: str, problem_of: Callable[[Address, int], str | None], schemes: frozenset[str] = SCHEMES
) -> str | None:
    """Why a URL is refused as it is written, or None. `problem_of` judges the address that its host may be."""
    try:
        place = place_of(url, schemes)
    except ToolUrlError as error:
        return str(error)
    host = place.host.rstrip(".")
    if address := _address(host):
        return problem_of(address, place.port)
    if _is_numeric(host):
        return "its address is not in the usual spelling"
    return f"{host} is a metadata service" if host in _METADATA_NAMES else None


def problem_of_address(address: Address, *, allow_loopback: bool) -> str | None:
    """Why no tool may be at an address, or None."""
    address = embedded(address)
    if any(address in network for network in _REFUSED_NETWORKS):
        return f"{address} is a link-local, metadata, multicast or unspecified address"
    if address.is_loopback and not allow_loopback:
        return f"{address} is a loopback address"
    return None


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, 6to4, NAT64), else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _address(host: str) -> Address | None:
    """The address that a host is written as; `localhost` is one by definition (RFC 6761 6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return _LOOPBACK
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_numeric(host: str) -> bool:
    """Whether the C library would read a host as an IPv4 address: 2130706433, 0x7f.1, 0177.0.0.1."""
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True
