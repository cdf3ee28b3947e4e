"""Where a tool may be: a registered URL must not lead into the host's own workings, nor back into this sidecar.

A URL is judged twice: as it is written, and, where it names a host, by the addresses that name has at the moment of
connecting, so that an answer that changes in between (DNS rebinding) gains nothing.
"""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from interlock.governance.errors import InvalidRequestError

Address = IPv4Address | IPv6Address

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


class DestinationRefusedError(OSError):
    """A host name has only addresses that are refused. An OSError, as that is what a resolver may raise."""


class Destinations:
    """The rule. `allow_loopback` is for tools beside the agent; `own_ports` are those this sidecar listens on."""

    def __init__(self, *, allow_loopback: bool, own_ports: frozenset[int] = frozenset()) -> None:
        self._allow_loopback = allow_loopback
        self._own_ports = own_ports

    def check_url(self, url: str, *, field: str = "url") -> None:
        """Refuses a URL that is no absolute http(s) URL, or whose host is written so that it can be refused unresolved.

        Errors: `destination_refused`.
        """
        if problem := self._problem_of_url(url):
            raise InvalidRequestError("destination_refused", f"the tool's URL is refused: {problem}", field=field)

    def resolver(self) -> AbstractResolver:
        """Resolves names through the system, and gives only addresses that are not refused. Needs a running loop."""
        return _Resolver(self)

    def problem_of_address(self, address: Address, port: int) -> str | None:
        """Why an address is refused, or None."""
        address = _embedded(address)
        if any(address in network for network in _REFUSED_NETWORKS):
            return f"{address} is a link-local, metadata, multicast or unspecified address"
        if address.is_loopback and not self._allow_loopback:
            return f"{address} is a loopback address"
        if port in self._own_ports and _is_this_host(address):
            return f"{address} port {port} is this sidecar itself"
        return None

    def _problem_of_url(self, url: str) -> str | None:
        if not _URL_CHARACTERS.fullmatch(url):
            return "it holds characters that must be percent-encoded"
        try:
            parts = URL(url, encoded=True)
            host, port = parts.raw_host, parts.port
        except ValueError as error:
            return str(error)
        if parts.scheme not in {"http", "https"} or not host or not port:
            return "it is not an absolute http or https URL"
        if parts.raw_user is not None or parts.raw_password is not None or "#" in url:
            return "it holds user information or a fragment"
        return self._problem_of_host(host.lower().rstrip("."), port)

    def _problem_of_host(self, host: str, port: int) -> str | None:
        if address := _address(host):
            return self.problem_of_address(address, port)
        if _is_numeric(host):
            return "its address is not in the usual spelling"
        return f"{host} is a metadata service" if host in _METADATA_NAMES else None


class _Resolver(AbstractResolver):
    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        problems = [self._destinations.problem_of_address(ip_address(result["host"]), port) for result in found]
        allowed = [result for result, problem in zip(found, problems, strict=True) if problem is None]
        if not allowed:
            raise DestinationRefusedError(f"{host} is refused: {problems[0] if problems else 'it has no address'}")
        return allowed

    async def close(self) -> None:
        await self._system.close()


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


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, 6to4, NAT64), else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_this_host(address: Address) -> bool:
    """Whether an address is one of this machine's own: the kernel reaches such a one from itself."""
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting a datagram socket sends nothing
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        return bool(probe.getsockname()[0] == str(address))
