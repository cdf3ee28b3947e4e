"""Certificates are taken up when their files change, and only whole ones."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc import aio

from interlock.governance.certificates import Certificates, server_credentials
from tests.certificates import Authority

ECHO = "/test.Echo/Echo"


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "our-ca")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "their-ca")


class Mounted:
    """The files as a kubelet mounts them: links through `..data`, which is swapped as a whole."""

    def __init__(self, folder: Path, pair: tuple[Path, Path], client_ca: Path) -> None:
        self._folder, self._turn = folder, 0
        folder.mkdir()
        self.cert, self.key, self.client_ca = (folder / name for name in ("tls.crt", "tls.key", "ca.crt"))
        self.swap(pair, client_ca)
        for file in (self.cert, self.key, self.client_ca):
            file.symlink_to(Path("..data") / file.name)

    def swap(self, pair: tuple[Path, Path], client_ca: Path) -> None:
        self._turn += 1
        new = self._folder / f"..{self._turn}"
        new.mkdir()
        for source, name in zip((*pair, client_ca), ("tls.crt", "tls.key", "ca.crt"), strict=True):
            shutil.copy(source, new / name)
        link = self._folder / "..data_tmp"
        link.symlink_to(new.name)
        link.rename(self._folder / "..data")


@pytest.fixture
def mounted(tmp_path: Path, ours: Authority) -> Mounted:
    return Mounted(tmp_path / "mounted", ours.issue("first"), ours.file)


@pytest.fixture
def certificates(mounted: Mounted) -> Certificates:
    return Certificates(mounted.cert, mounted.key, mounted.client_ca)


@pytest.fixture
async def port(certificates: Certificates) -> AsyncIterator[int]:
    async def echo(request: bytes, _: object) -> bytes:
        return request

    server = aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("test.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})]
    )
    port = server.add_secure_port("127.0.0.1:0", server_credentials(certificates))
    await server.start()
    yield port
    await server.stop(None)


def _dial(port: int, trusted: Authority, pair: tuple[Path, Path]) -> aio.Channel:
    cert, key = (file.read_bytes() for file in pair)
    credentials = grpc.ssl_channel_credentials(trusted.file.read_bytes(), key, cert)
    return aio.secure_channel(f"127.0.0.1:{port}", credentials, options=[("grpc.use_local_subchannel_pool", 1)])


async def _echo(channel: aio.Channel) -> bytes:
    answer: bytes = await channel.unary_unary(ECHO)(b"hello", timeout=5)
    return answer


async def test_a_new_connection_sees_the_new_certificate_and_authority_and_an_old_one_lives_on(
    port: int, mounted: Mounted, ours: Authority, theirs: Authority
) -> None:
    our_pair, their_pair = ours.issue("old-client"), theirs.issue("new-client")
    async with _dial(port, ours, our_pair) as old:
        assert await _echo(old) == b"hello"
        mounted.swap(theirs.issue("second"), theirs.file)
        async with _dial(port, theirs, their_pair) as new:
            assert await _echo(new) == b"hello"
        async with _dial(port, theirs, our_pair) as stranger:
            with pytest.raises(aio.AioRpcError) as refused:
                await _echo(stranger)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await _echo(old) == b"hello"


async def test_calls_go_through_while_the_certificate_changes_under_them(
    port: int, mounted: Mounted, ours: Authority
) -> None:
    client, answered = ours.issue("client"), 0
    for turn in range(10):
        mounted.swap(ours.issue(f"turn-{turn}"), ours.file)
        for _ in range(3):
            async with _dial(port, ours, client) as channel:
                answered += await _echo(channel) == b"hello"
    assert answered == 30


def test_a_key_that_does_not_fit_is_not_taken_up_until_its_certificate_follows(ours: Authority) -> None:
    cert, key = ours.issue("live")
    new_cert, new_key = ours.issue("new")
    refused: list[None] = []
    certificates = Certificates(cert, key, None, lambda: refused.append(None))
    before = certificates.current()
    new_key.replace(key)
    assert [certificates.current(), certificates.current()] == [before, before]
    assert len(refused) == 1
    new_cert.replace(cert)
    assert certificates.current().chain == cert.read_bytes() != before.chain
    assert len(refused) == 1


@pytest.mark.parametrize("part", ["cert", "key", "client_ca"])
def test_a_file_cut_off_or_gone_changes_nothing(part: str, mounted: Mounted, certificates: Certificates) -> None:
    before = certificates.current()
    file: Path = getattr(mounted, part)
    whole = file.read_bytes()
    for size in range(0, len(whole) - 30, 40):
        file.write_bytes(whole[:size])
        assert certificates.current() == before
    file.unlink()
    assert certificates.current() == before


def test_a_chain_of_which_only_the_first_half_is_written_is_not_taken_up(ours: Authority) -> None:
    cert, key = ours.issue("live")
    certificates = Certificates(cert, key, None)
    before, authority = certificates.current(), ours.file.read_bytes()
    cert.write_bytes(before.chain + authority[: len(authority) // 2])
    assert certificates.current() == before
    cert.write_bytes(before.chain + authority)
    assert certificates.current().chain == before.chain + authority


def test_it_tells_when_the_certificate_ends(mounted: Mounted, certificates: Certificates) -> None:
    ends = x509.load_pem_x509_certificate(mounted.cert.read_bytes()).not_valid_after_utc
    assert certificates.current().expires_at == ends.timestamp()


def test_at_the_start_files_that_do_not_fit_are_an_error_that_names_them(ours: Authority) -> None:
    cert, _ = ours.issue("one")
    _, key = ours.issue("other")
    with pytest.raises(ValueError, match=r"one\.pem with .*other\.key: the key is not the certificate's"):
        Certificates(cert, key, None)
    with pytest.raises(ValueError, match=r"one\.pem: not a private key"):
        Certificates(cert, cert, None)
