"""Where a tool may be: a registered URL must not lead into the host's own workings, nor back into this sidecar.

A URL is judged twice: as it is written, and, where it names a host, by the addresses that name has at the moment of
connecting, so that an answer that changes in between (DNS rebinding) gains nothing.
"""

import socket
from ipaddress import ip_address

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

from interlock.governance.errors import InvalidRequestError
from interlock.governance.tool_urls import SCHEMES, Address, embedded, problem_of_address, problem_of_url


class DestinationRefusedError(OSError):
    """A host name has only addresses that are refused. An OSError, as that is what a resolver may raise."""


class Destinations:
    """The rule. `allow_loopback` is for tools beside the agent; `own_ports` are those this sidecar listens on."""

    def __init__(self, *, allow_loopback: bool, own_ports: frozenset[int] = frozenset()) -> None:
        self._allow_loopback = allow_loopback
        self._own_ports = own_ports

    def check_url(self, url: str, *, field: str = "url", schemes: frozenset[str] = SCHEMES) -> None:
        """Refuses a URL that is no tool's, or whose host is written so that it can be refused unresolved.

        Errors: `destination_refused`.
        """
        if problem := problem_of_url(url, self.problem_of_address, schemes):
            raise InvalidRequestError("destination_refused", f"this URL is refused: {problem}", field=field)

    def resolver(self) -> AbstractResolver:
        """Resolves names through the system, and gives only addresses that are not refused. Needs a running loop."""
        return _Resolver(self)

    def problem_of_address(self, address: Address, port: int) -> str | None:
        """Why an address is refused, or None."""
        if problem := problem_of_address(address, allow_loopback=self._allow_loopback):
            return problem
        address = embedded(address)
        if port in self._own_ports and _is_this_host(address):
            return f"{address} port {port} is this sidecar itself"
        return None


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
