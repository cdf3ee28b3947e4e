"""The way to a gRPC tool: which address, when it counts as sent, and how many connections."""

import asyncio
import datetime as dt
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import StatusCode as Code

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.app import Sidecar
from interlock.proxy.rpc import upstream
from tests.interlock_dev import free_port
from tests.rpc_agent import RpcAgent, agent_at
from tests.rpc_tool import RpcTool, never, says, waits_for
from tests.unit.proxy.scripted_engine import ScriptedEngine, embedded_sidecar, route


async def test_a_tool_that_is_not_there_was_not_sent_anything(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    engine.tool.url, engine.tool.on_ambiguous = f"grpc://127.0.0.1:{free_port()}", pb.ON_AMBIGUOUS_HOLD
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "upstream_unreachable")
    assert (engine.settled[0].outcome, engine.settled[0].failure) == (pb.OUTCOME_NOT_SENT, "upstream_unreachable")


async def test_a_tool_that_comes_back_is_found_within_the_same_call(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    engine.tool.max_retries = 10
    await rpc_tool.stop()
    calling = asyncio.create_task(rpc_agent.call())
    await engine.until_authorized()
    await rpc_tool.start()
    assert (await calling).code is Code.OK
    assert len(rpc_tool.received) == 1


async def test_a_restarted_tool_is_reached_by_the_next_call(rpc_agent: RpcAgent, rpc_tool: RpcTool) -> None:
    assert (await rpc_agent.call()).code is Code.OK
    await rpc_tool.stop()
    await rpc_tool.start()
    assert (await rpc_agent.call(b"2")).code is Code.OK


async def test_a_connection_serves_one_call_after_the_other(rpc_agent: RpcAgent, engine: ScriptedEngine) -> None:
    tool = RpcTool(("grpc.max_allowed_incoming_connections", 1))
    await tool.start()
    engine.tool.url = tool.url
    for number in range(5):
        assert (await rpc_agent.call(bytes([number]))).code is Code.OK
    await tool.stop()


async def test_calls_beyond_what_a_connection_takes_wait_for_no_turn_but_get_another_connection(
    rpc_agent: RpcAgent, engine: ScriptedEngine
) -> None:
    gate = asyncio.Event()
    tool = RpcTool(("grpc.max_concurrent_streams", 3)).does(waits_for(gate, says(b"done")))
    await tool.start()
    engine.tool.url = tool.url
    calls = [asyncio.create_task(rpc_agent.call(bytes([number]))) for number in range(20)]
    await tool.until_received(20)
    gate.set()
    assert {(await call).code for call in calls} == {Code.OK}
    assert {settled.outcome for settled in engine.settled} == {pb.OUTCOME_SUCCEEDED}
    assert len(tool.received) == 20
    await tool.stop()


async def test_a_connection_on_which_a_call_timed_out_is_given_no_other(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = upstream._channel
    monkeypatch.setattr(upstream, "_channel", lambda *place: made.append(place) or make(*place))
    engine.tool.timeout_ms = 300
    rpc_tool.does(says(b"1"), says(b"2"), never, says(b"4"))
    answers = [await rpc_agent.call(bytes([number])) for number in range(4)]
    assert [answer.reason for answer in answers] == ["", "", "upstream_timeout", ""]
    assert len(made) == 2


async def test_a_lease_that_is_over_when_the_connection_stands_sends_nothing(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = upstream._Connection.stand

    async def stand_late(connection: Any) -> None:
        await stand(connection)
        await asyncio.sleep(0.4)

    monkeypatch.setattr(upstream._Connection, "stand", stand_late)
    engine.lease_ms = 200
    engine.renewal = pb.RenewResponse(renewed=False, reason="lease_lost")
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason, rpc_tool.received) == (Code.UNAVAILABLE, "lease_lost", [])
    assert engine.settled[0].outcome == pb.OUTCOME_NOT_SENT


async def test_a_tool_that_passes_on_that_another_had_no_room_was_sent_the_call_once(
    rpc_agent: RpcAgent, rpc_tool: RpcTool, engine: ScriptedEngine
) -> None:
    elsewhere = "ipv4:127.0.0.1:1: subchannel at max number of connections, but no quota to send RPC"
    rpc_tool.does(says(code=Code.RESOURCE_EXHAUSTED, details=elsewhere))
    engine.tool.on_ambiguous = pb.ON_AMBIGUOUS_HOLD
    answer = await rpc_agent.call()
    assert (answer.code, answer.details) == (Code.RESOURCE_EXHAUSTED, elsewhere)
    assert engine.settled[0].outcome == pb.OUTCOME_REJECTED
    assert len(rpc_tool.received) == 1


# Where a tool may be.


@pytest.mark.parametrize(
    "url", ["grpc://169.254.169.254:80", "grpc://0x7f.1:50051", "grpc://[fe80::1]:50051", "grpc://h:1/p"]
)
async def test_a_place_that_no_tool_may_have_is_not_dialled(
    rpc_agent: RpcAgent, engine: ScriptedEngine, url: str
) -> None:
    engine.tool.url = url
    answer = await rpc_agent.call()
    assert (answer.code, answer.reason) == (Code.FAILED_PRECONDITION, "destination_refused")
    assert engine.settled[0].outcome == pb.OUTCOME_NOT_SENT


@pytest.mark.parametrize("port", ["port", "admin_port", "grpc_port"])
async def test_a_sidecars_own_ports_are_no_tools(
    sidecar: Sidecar, rpc_agent: RpcAgent, engine: ScriptedEngine, port: str
) -> None:
    engine.tool.url = f"grpc://localhost:{getattr(sidecar, port)}"
    assert (await rpc_agent.call()).reason == "destination_refused"


async def test_a_name_is_judged_by_the_addresses_it_has_when_it_is_dialled(
    rpc_agent: RpcAgent, engine: ScriptedEngine, rpc_tool: RpcTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads_to = ["127.0.0.1"]

    def resolve(_host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in leads_to]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    engine.tool.url = f"grpc://tool.example:{rpc_tool.port}"
    assert (await rpc_agent.call()).code is Code.OK
    await rpc_tool.stop()
    leads_to[:] = ["169.254.169.254"]
    assert (await rpc_agent.call(b"2")).reason == "destination_refused"
    await rpc_tool.start()
    leads_to[:] = ["169.254.169.254", "127.0.0.1"]
    assert (await rpc_agent.call(b"3")).code is Code.OK


async def test_a_name_without_an_address_is_unreachable(
    rpc_agent: RpcAgent, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    engine.tool.url = "grpc://tool.example:50051"
    assert (await rpc_agent.call()).reason == "upstream_unreachable"


async def test_a_proxy_of_the_environment_is_not_used(rpc_agent: RpcAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await rpc_agent.call()).code is Code.OK


# TLS.


def certificate(name: str) -> tuple[bytes, bytes]:
    """A self-signed one, and its key, PEM."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.9"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem), private


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[grpc.ServerCredentials]:
    """The credentials of a tool called localhost, whose authority this process trusts."""
    chain, key = certificate("localhost")
    (tmp_path / "ca.pem").write_bytes(chain)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    upstream._tls.cache_clear()
    yield grpc.ssl_server_credentials([(key, chain)])
    upstream._tls.cache_clear()


async def test_a_grpcs_tool_is_known_by_its_certificate(trusted: grpc.ServerCredentials, tmp_path: Path) -> None:
    tool = RpcTool()
    await tool.start(trusted)
    engine = ScriptedEngine(route(f"grpcs://localhost:{tool.port}", name="pay.v1.Payments.Charge"))
    async with embedded_sidecar(engine, tmp_path / "spool") as sidecar, agent_at(sidecar.grpc_port or 0) as agent:
        known = await agent.call()
        engine.tool.url, engine.tool.revision = f"grpcs://127.0.0.1:{tool.port}", 2
        engine.verdicts.append(pb.AuthorizeResponse(verdict=pb.VERDICT_TOOL_CHANGED))
        of_another_name = await agent.call(b"2")
    await tool.stop()
    assert (known.code, known.messages) == (Code.OK, [b"calls: 1"])
    assert (of_another_name.code, of_another_name.reason) == (Code.UNAVAILABLE, "upstream_unreachable")
    assert len(tool.received) == 1
