"""Tools as they are registered."""

import dataclasses
from typing import Any

import pytest

from interlock.governance.errors import InvalidRequestError
from interlock.policy import tools
from interlock.policy.model import Tool
from interlock.policy.secrets import Keyring, generate_key, parse_keys
from interlock.policy.tools import Secrets
from interlock.policy.upstream import Given

TOOL = Tool(name="charge", scope_id="global", url="https://tools.example/charge")
NOW_MS = 1_800_000_000_000
KEYRING = Keyring(parse_keys(generate_key()))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://tools.example/x",
        "file:///etc/passwd",
        "tools.example/x",
        "http:///x",
        "http://user:pass@tools.example/",
        "http://tools.example/#top",
        "http://tools.example/a b",
        "http://tools.example/\r\nHost: evil",
        "http://tools.example\\@evil/",
        "http://tools.example:99999/",
        "http://[::1",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://100.100.100.200/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://224.0.0.1/",
    ],
)
@pytest.mark.parametrize("allow_loopback", [True, False])
def test_a_url_that_is_no_tool_is_refused_everywhere(url: str, allow_loopback: bool) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        tools.check_url(url, allow_loopback=allow_loopback)
    assert refused.value.metadata == {"field": "url"}


@pytest.mark.parametrize(
    "url",
    [
        "grpc://tools.example",
        "grpcs://tools.example/",
        "grpc://tools.example:50051/pay.v1.Payments",
        "grpc://tools.example:50051/?a=b",
        "grpc://tools.example:50051?",
        "grpc://user@tools.example:50051",
        "grpc://169.254.169.254:80",
        "grpcs://0x7f.1:50051",
        "dns:///tools.example:50051",
        "unix:/run/tool.sock",
    ],
)
def test_a_grpc_url_is_a_host_and_a_port_and_nothing_else(url: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        tools.check_url(url, allow_loopback=True)
    assert refused.value.metadata == {"field": "url"}


@pytest.mark.parametrize(
    ("changes", "secrets", "field"),
    [
        ({"methods": ("GET", "POST")}, Secrets(), "methods"),
        ({"dedup_ignore": ("at",)}, Secrets(), "dedup.ignore"),
        ({}, Secrets(credential=Given("token-bin", "x")), "upstream_credential.header"),
        ({}, Secrets(credential=Given("Grpc-Timeout", "1S")), "upstream_credential.header"),
    ],
)
def test_a_grpc_tool_takes_nothing_that_would_mean_nothing_to_it(
    changes: dict[str, Any], secrets: Secrets, field: str
) -> None:
    tool = dataclasses.replace(TOOL, url="grpcs://tools.example:443")
    tools.check(tool, Secrets(credential=Given("x-api-key", "v")), allow_loopback=False)
    with pytest.raises(InvalidRequestError) as refused:
        tools.check(dataclasses.replace(tool, **changes), secrets, allow_loopback=False)
    assert refused.value.metadata == {"field": field}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x",
        "grpc://127.0.0.1:9",
        "http://localhost/",
        "http://a.localhost/",
        "http://[::1]/",
        "http://localhost./",
    ],
)
def test_loopback_is_for_development(url: str) -> None:
    tools.check_url(url, allow_loopback=True)
    with pytest.raises(InvalidRequestError, match="loopback"):
        tools.check_url(url, allow_loopback=False)


@pytest.mark.parametrize(
    "url",
    ["https://tools.example/a?b=c", "http://10.1.2.3:8080/", "http://tool.ns.svc.cluster.local/", "http://a1.example/"],
)
def test_a_tool_may_live_anywhere_else(url: str) -> None:
    tools.check_url(url, allow_loopback=False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a}b"}, "name"),
        ({"scope_id": "agent:"}, "scope_id"),
        ({"scope_id": "agent:a}b"}, "scope_id"),
        ({"scope_id": "team"}, "scope_id"),
        ({"timeout_ms": 249}, "timeout_ms"),
        ({"timeout_ms": 120_001}, "timeout_ms"),
        ({"max_retries": 11}, "max_retries"),
        ({"max_retries": -1}, "max_retries"),
        ({"methods": ("post",)}, "methods"),
        ({"methods": ("CONNECT",)}, "methods"),
        ({"risk": "some"}, "risk"),
        ({"description": "x" * 513}, "description"),
        ({"dedup_ttl_s": 0}, "dedup_ttl_s"),
        ({"replay_max_bytes": 2**21}, "replay_max_bytes"),
        ({"fails_open": True, "hold": True}, "on_governance_failure"),
        ({"open_max_calls_per_minute": 0}, "open_max_calls_per_minute"),
        ({"reconcile_url": "https://tools.example/outcome"}, "reconcile_url"),
        ({"reconcile_url": "ftp://tools.example/outcome", "hold": True}, "reconcile_url"),
        ({"reconcile_url": "http://127.0.0.1/outcome", "hold": True}, "reconcile_url"),
        ({"reconcile_deadline_s": 59}, "reconcile_deadline_s"),
        ({"reconcile_timeout_ms": 30_001}, "reconcile_timeout_ms"),
    ],
)
def test_an_impossible_tool_names_the_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        tools.check(dataclasses.replace(TOOL, **changes), tools.Secrets(), allow_loopback=False)
    assert refused.value.metadata == {"field": field}


@pytest.mark.parametrize(
    ("secrets", "field"),
    [
        (tools.Secrets(signing="short"), "auth.secret"),
        (tools.Secrets(grace_s=-1), "auth.grace_s"),
        (tools.Secrets(credential=Given("Bad Header", "x")), "upstream_credential.header"),
        (tools.Secrets(credential=Given("X-Key", "a\r\nb")), "upstream_credential.value"),
        (tools.Secrets(credential=Given("Transfer-Encoding", "x")), "upstream_credential.header"),
        (tools.Secrets(credential=Given("Interlock-Agent", "x")), "upstream_credential.header"),
        (tools.Secrets(credential=Given("idempotency-key", "x")), "upstream_credential.header"),
    ],
)
def test_an_impossible_secret_names_the_field(secrets: tools.Secrets, field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        tools.check(TOOL, secrets, allow_loopback=False)
    assert refused.value.metadata == {"field": field}


def with_secrets(secrets: tools.Secrets, stored: Tool | None = None) -> Tool:
    return tools.with_secrets(TOOL, secrets, stored, namespace="acme", keyring=KEYRING, now_ms=NOW_MS)


def signing(tool: Tool, now_ms: int = NOW_MS) -> list[str]:
    return tools.signing_secrets(tool, tools.owner_of("acme", tool), KEYRING, now_ms)


def test_a_replaced_secret_signs_on_beside_the_new_one_for_its_grace() -> None:
    first = with_secrets(tools.Secrets(signing="first-secret"))
    second = with_secrets(tools.Secrets(signing="second-secret"), first)
    assert signing(second) == ["second-secret", "first-secret"]
    assert signing(second, NOW_MS + 86_399_999) == ["second-secret", "first-secret"]
    assert signing(second, NOW_MS + 86_400_000) == ["second-secret"]


def test_what_is_shown_of_a_secret_tells_nothing_of_it() -> None:
    first, again = (with_secrets(tools.Secrets(signing="first-secret")).secrets[0] for _ in range(2))
    assert first.secret_id != again.secret_id
    assert first.mask == "••••"
    assert with_secrets(tools.Secrets(signing="a-secret-that-is-long-enough")).secrets[0].mask == "•••• ough"


def test_a_leaked_secret_can_be_ended_at_once() -> None:
    first = with_secrets(tools.Secrets(signing="first-secret"))
    assert signing(with_secrets(tools.Secrets(signing="second-secret", grace_s=0), first)) == ["second-secret"]


def test_a_replacement_without_a_secret_keeps_the_stored_ones() -> None:
    first = with_secrets(tools.Secrets(signing="first-secret", credential=Given("X-Key", "v")))
    again = with_secrets(tools.Secrets(), first)
    assert (again.secrets, again.upstream_header, again.upstream_value) == (
        first.secrets,
        first.upstream_header,
        first.upstream_value,
    )
    assert with_secrets(tools.Secrets(credential=Given()), first).upstream_value is None


def test_the_same_secret_again_is_no_rotation() -> None:
    first = with_secrets(tools.Secrets(signing="first-secret"))
    assert with_secrets(tools.Secrets(signing="first-secret"), first).secrets == first.secrets


def test_putting_a_tool_again_moves_its_secrets_under_the_current_master_key() -> None:
    old, new = generate_key(), generate_key()
    given = tools.Secrets(signing="first-secret", credential=Given("X-Key", "v"))
    first = tools.with_secrets(TOOL, given, None, namespace="acme", keyring=Keyring(parse_keys(old)), now_ms=NOW_MS)
    rotated = Keyring(parse_keys(f"{new},{old}"))
    moved = tools.with_secrets(TOOL, tools.Secrets(), first, namespace="acme", keyring=rotated, now_ms=NOW_MS)
    retired = Keyring(parse_keys(new))
    assert tools.signing_secrets(moved, "acme/global/charge", retired, NOW_MS) == ["first-secret"]
    assert moved.upstream_value is not None
    assert retired.open(moved.upstream_value, "acme/global/charge") == "v"


def test_a_secret_of_a_lost_master_key_can_be_replaced() -> None:
    lost = Keyring(parse_keys(generate_key()))
    first = tools.Secrets(signing="first-secret")
    stored = tools.with_secrets(TOOL, first, None, namespace="acme", keyring=lost, now_ms=NOW_MS)
    assert signing(with_secrets(tools.Secrets(signing="second-secret"), stored)) == ["second-secret"]
