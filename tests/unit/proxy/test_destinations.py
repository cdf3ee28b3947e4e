import socket
from ipaddress import ip_address
from typing import Any

import pytest

from interlock.governance.errors import InvalidRequestError
from interlock.proxy.destinations import DestinationRefusedError, Destinations

strict = Destinations(allow_loopback=False, own_ports=frozenset({8400}))
local = Destinations(allow_loopback=True, own_ports=frozenset({8400}))


def own_address() -> str:
    """An address of this machine beside loopback, or loopback if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def answer_dns_with(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(_host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    "url",
    [
        "http://tool.example/charge",
        "grpc://tool.example:50051",
        "grpcs://tool.example:443",
        "grpcs://[fd00::1]:443/",
        "https://tool.example:8400/charge?a=1",
        "http://10.1.2.3:9000/",
        "http://[fd00::1]/",
        "http://100.64.0.1/",
        "http://metadata.example/",
        "http://8.8.8.8:8400/",
    ],
)
def test_an_ordinary_tool_is_accepted(url: str) -> None:
    strict.check_url(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/", "http://localhost:9000/x", "http://[::1]/", "http://a.localhost/"]
)
def test_a_tool_on_loopback_is_accepted_only_where_that_is_allowed(url: str) -> None:
    local.check_url(url)
    with pytest.raises(InvalidRequestError, match="loopback") as refused:
        strict.check_url(url)
    assert refused.value.reason == "destination_refused"
    assert refused.value.metadata == {"field": "url"}


@pytest.mark.parametrize(
    "url",
    [
        # The link-local metadata address of most clouds, however it is written.
        *("http://169.254.169.254/latest", "http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/"),
        *("http://[64:ff9b::a9fe:a9fe]/", "http://[2002:a9fe:a9fe::]/", "http://2852039166/", "http://0xa9fea9fe/"),
        *("http://0251.0376.0251.0376/", "http://169.16689662/", "http://169.254.169.254./"),
        # Other metadata services.
        *("http://100.100.100.200/", "http://[fd00:ec2::254]/", "http://[fd00:0ec2:0:0::254]/", "http://192.0.0.192/"),
        *("http://168.63.129.16/", "http://[fd20:ce::254]/"),
        *("http://metadata.google.internal/", "http://METADATA.google.internal./", "http://metadata/"),
        # Loopback in other spellings, refused though loopback is allowed: nobody writes them with good intent.
        *(
            "http://2130706433/",
            "http://0x7f.1/",
            "http://127.1/",
            "http://0177.0.0.1/",
        ),
        # Unspecified, link-local, multicast, reserved.
        *("http://0.0.0.0/", "http://0/", "http://0.1.2.3/", "http://[::]/", "http://[::ffff:0.0.0.0]/"),
        *("http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://169.254.1.1/", "http://224.0.0.1/"),
        *("http://[ff02::1]/", "http://255.255.255.255/", "http://240.0.0.1/"),
    ],
)
def test_what_no_tool_may_be_is_refused_in_every_spelling(url: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        local.check_url(url)
    assert refused.value.reason == "destination_refused"


@pytest.mark.parametrize(
    "url",
    [
        *("", "tool.example", "/charge", "//tool.example/", "http:", "http://", "http:///x", "http://:80/"),
        *("ftp://tool.example/", "file:///etc/passwd", "gopher://tool.example/", "unix:///run/x.sock"),
        *("http://tool.example:0/", "http://tool.example:99999/", "http://tool.example:x/", "http://[::1/"),
        *("http://user@tool.example/", "http://user:pw@tool.example/", "http://:pw@tool.example/"),
        *("http://tool.example/#fragment", "http://tool.example\\@127.0.0.1/"),
        *(
            "http://tool.example /",
            "http://tool.example/a b",
            "http://tool.example/\r\nX: y",
            "http://tool.example/\u00e9",
        ),
    ],
)
def test_what_is_no_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        local.check_url(url)
    assert refused.value.reason == "destination_refused"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "[::ffff:127.0.0.1]", own_address()])
def test_the_sidecars_own_listeners_are_refused_on_every_address_of_the_machine(host: str) -> None:
    local.check_url(f"http://{host}:8499/")
    with pytest.raises(InvalidRequestError, match="this sidecar itself"):
        local.check_url(f"http://{host}:8400/")


async def test_a_name_resolves_to_its_allowed_addresses_only(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_dns_with(monkeypatch, "169.254.169.254", "192.0.2.7", "127.0.0.1", "::ffff:100.100.100.200", "2001:db8::7")
    found = await strict.resolver().resolve("tool.example", 80)
    assert [result["host"] for result in found] == ["192.0.2.7", "2001:db8::7"]


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "0.0.0.0", "::1", "fd00:ec2::254"])
async def test_a_name_with_no_allowed_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    answer_dns_with(monkeypatch, address)
    with pytest.raises(DestinationRefusedError, match=r"tool\.example is refused"):
        await strict.resolver().resolve("tool.example", 80)


async def test_a_name_for_this_machine_is_refused_on_the_sidecars_own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_dns_with(monkeypatch, "127.0.0.1", own_address())
    assert await local.resolver().resolve("me.example", 8499)
    with pytest.raises(DestinationRefusedError, match="this sidecar itself"):
        await local.resolver().resolve("me.example", 8400)


def test_another_machines_port_of_the_same_number_is_no_concern() -> None:
    assert local.problem_of_address(ip_address("192.0.2.1"), 8400) is None
