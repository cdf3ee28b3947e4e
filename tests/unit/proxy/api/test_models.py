from decimal import Decimal

import pytest
from pydantic import BaseModel, ValidationError

from interlock.proxy.api.models import KeyBody, PolicyBody, ReasonBody, ResolveBody, SwitchBody, ToolBody
from interlock.proxy.api.queries import CallsQuery, EventsQuery, LogsQuery

TOOL = {"name": "charge", "url": "https://pay.example/charge"}


def places(model: type[BaseModel], body: object) -> list[str]:
    """Where a body is wrong, `a.b` a place."""
    with pytest.raises(ValidationError) as raised:
        model.model_validate(body)
    return [".".join(map(str, found["loc"])) for found in raised.value.errors()]


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [("timeout_ms", 250, 120_000), ("max_retries", 0, 10), ("replay_max_bytes", 0, 1_048_576)],
)
def test_numbers_of_a_tool_keep_to_the_contracts_bounds(field: str, least: int, most: int) -> None:
    for good in (least, most):
        ToolBody.model_validate({**TOOL, field: good})
    for bad in (least - 1, most + 1, "1000", 1.5, True):
        assert places(ToolBody, {**TOOL, field: bad}) == [field]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a%2fb", "a b", "a\n", "a\x00", "ä", "a" * 129, "a{b}", "*"])
def test_a_name_that_is_no_tools_name_is_refused(name: str) -> None:
    assert places(ToolBody, {**TOOL, "name": name}) == ["name"]


@pytest.mark.parametrize("scope", ["", "local", "agent:", "agent:a{b", "agent:a\n", "global "])
def test_a_scope_that_is_none_is_refused(scope: str) -> None:
    assert places(ToolBody, {**TOOL, "scope_id": scope}) == ["scope_id"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("on_governance_failure", "ajar"),
        ("open_max_calls_per_minute", 0),
        ("reconcile_url", ""),
        ("reconcile_deadline_s", 59),
        ("reconcile_timeout_ms", 30_001),
    ],
)
def test_what_a_tool_says_of_failures_is_within_its_bounds(field: str, value: object) -> None:
    assert places(ToolBody, {**TOOL, field: value}) == [field]


def test_unknown_fields_are_refused_at_every_level() -> None:
    body = {**TOOL, "uri": "x", "auth": {"secret": "12345678", "algo": "x"}, "dedup": {"ttl": 1}}
    assert sorted(places(ToolBody, body)) == ["auth.algo", "dedup.ttl", "uri"]


def test_a_signing_secret_has_eight_characters_and_is_not_removed_by_null() -> None:
    assert places(ToolBody, {**TOOL, "auth": {"type": "hmac_sha256", "secret": "1234567"}}) == ["auth.secret"]
    assert places(ToolBody, {**TOOL, "auth": None}) == ["auth"]


@pytest.mark.parametrize("value", ["", "a\r\nX-Evil: 1", " padded ", "tab\there", "ä"])
def test_an_injected_credential_cannot_break_its_header(value: str) -> None:
    credential = {"header": "X-Api-Key", "value": value}
    assert places(ToolBody, {**TOOL, "upstream_credential": credential}) == ["upstream_credential.value"]


@pytest.mark.parametrize("header", ["", "X Api", "X-Api:", "Host", "content-length", "Transfer-Encoding"])
def test_a_header_that_frames_the_message_is_not_injected(header: str) -> None:
    credential = {"header": header, "value": "v"}
    assert places(ToolBody, {**TOOL, "upstream_credential": credential}) == ["upstream_credential.header"]


@pytest.mark.parametrize("header", ["Idempotency-Key", "interlock_agent", "Webhook-Signature", "Signature-Input"])
def test_a_header_that_speaks_for_interlock_is_not_injected(header: str) -> None:
    credential = {"header": header, "value": "v"}
    assert places(ToolBody, {**TOOL, "upstream_credential": credential}) == ["upstream_credential.header"]


OAUTH2 = {"type": "oauth2_client_credentials", "token_url": "https://login.example/token", "client_id": "client-1"}


@pytest.mark.parametrize(
    ("credential", "wrong"),
    [
        ({"type": "oauth2"}, ["type"]),
        ({"type": ["header"]}, ["type"]),
        ({"type": "oauth2_client_credentials"}, ["token_url", "client_id"]),
        ({"header": "X-Key"}, ["value"]),
        ({**OAUTH2, "value": "v"}, ["value"]),
        ({**OAUTH2, "client_secret": "ä"}, ["client_secret"]),
        ({**OAUTH2, "client_secret": ""}, ["client_secret"]),
        ({**OAUTH2, "auth_style": "jwt"}, ["auth_style"]),
        ({**OAUTH2, "header": "Content-Length", "scheme": "a b"}, ["header", "scheme"]),
        ({**OAUTH2, "params": {"a": 1}}, ["params.a"]),
    ],
)
def test_a_finding_in_a_credential_names_the_field_of_its_own_type(credential: object, wrong: list[str]) -> None:
    found = places(ToolBody, {**TOOL, "upstream_credential": credential})
    assert found == [f"upstream_credential.{field}" for field in wrong]


@pytest.mark.parametrize("methods", [[], ["get"], ["CONNECT"], ["TRACE"], "POST"])
def test_methods_that_cannot_be_forwarded_are_refused(methods: object) -> None:
    assert places(ToolBody, {**TOOL, "methods": methods})[0].startswith("methods")


@pytest.mark.parametrize("spend", [-1, "5", True, None, Decimal("1e400"), Decimal("Infinity"), 10_000_001, []])
def test_spend_is_a_number_of_dollars_in_bounds(spend: object) -> None:
    if spend is None:
        assert PolicyBody.model_validate({"max_spend_usd_per_day": None}).max_spend_usd_per_day is None
    else:
        assert places(PolicyBody, {"max_spend_usd_per_day": spend}) == ["max_spend_usd_per_day"]


@pytest.mark.parametrize("price", [-1, Decimal("1000000.000001"), "1", None])
def test_a_price_is_a_number_of_dollars_in_bounds(price: object) -> None:
    assert places(PolicyBody, {"pricing_rules": [{"tool": "*", "price_usd": price}]}) == ["pricing_rules.0.price_usd"]


def test_a_bare_limit_holds_for_each_tool() -> None:
    assert PolicyBody.model_validate({"max_calls_per_tool": 5}).max_calls_per_tool == {"*": 5}


@pytest.mark.parametrize("limit", [True, -1, Decimal("1.5"), {"a{b}": 1}, {"charge": -1}, {"charge": "1"}])
def test_impossible_limits_are_refused(limit: object) -> None:
    assert places(PolicyBody, {"max_calls_per_tool": limit})[0].startswith("max_calls_per_tool")


def test_an_empty_allowlist_is_not_an_absent_one() -> None:
    assert PolicyBody.model_validate({"allowed_tools": []}).allowed_tools == []
    assert PolicyBody.model_validate({}).allowed_tools is None


LISTS: list[tuple[type[LogsQuery | CallsQuery | EventsQuery], dict[str, str], int]] = [
    (LogsQuery, {}, 500),
    (CallsQuery, {}, 1000),
    (EventsQuery, {"agent_id": "a"}, 1000),
]
each_list = pytest.mark.parametrize(("model", "asked", "most"), LISTS, ids=["logs", "calls", "audit"])


@each_list
def test_a_limit_out_of_its_bounds_is_refused(model: type[BaseModel], asked: dict[str, str], most: int) -> None:
    for limit in ("0", str(most + 1), "-1", "ten", "1.5", ""):
        assert places(model, {**asked, "limit": limit}) == ["limit"]


@each_list
def test_a_limits_bounds_are_inside(
    model: type[LogsQuery | CallsQuery | EventsQuery], asked: dict[str, str], most: int
) -> None:
    assert [model.model_validate({**asked, "limit": str(limit)}).limit for limit in (1, most)] == [1, most]
    assert model.model_validate(asked).limit == 100


def test_a_query_with_an_unknown_parameter_is_refused() -> None:
    assert places(CallsQuery, {"agent": "billing"}) == ["agent"]


def test_events_are_of_one_agent() -> None:
    assert places(EventsQuery, {}) == ["agent_id"]
    assert places(EventsQuery, {"agent_id": "a", "after_seq": str(2**63)}) == ["after_seq"]


@pytest.mark.parametrize(
    ("model", "body", "place"),
    [
        (KeyBody, {"role": "root"}, "role"),
        (KeyBody, {"role": "agent", "agent_id": "a}b"}, "agent_id"),
        (KeyBody, {"role": "viewer", "label": "x" * 129}, "label"),
        (ResolveBody, {"outcome": "rejected"}, "outcome"),
        (ResolveBody, {"outcome": "succeeded", "note": "x" * 513}, "note"),
        (SwitchBody, {"pulled": "yes"}, "pulled"),
        (SwitchBody, {}, "pulled"),
    ],
)
def test_bodies_of_our_own_routes_are_held_to_their_bounds(model: type[BaseModel], body: object, place: str) -> None:
    assert places(model, body) == [place]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"blocked_tools": ["!"] * 1000}, "blocked_tools.0"),
        ({"blocked_tools": ["a"] * 1001}, "blocked_tools"),
        ({"allowed_tools": ["a"] * 1001}, "allowed_tools"),
        ({"pricing_rules": [{}] * 1000}, "pricing_rules.0.tool"),
        ({"max_calls_per_tool": {f"t{index}": "x" for index in range(1001)}}, "max_calls_per_tool"),
        ({f"unknown{index}": 1 for index in range(17)}, ""),
        ({f"unknown{index}": 1 for index in range(16)}, "unknown0"),
    ],
)
def test_a_body_with_endless_mistakes_is_judged_up_to_the_first(body: object, place: str) -> None:
    assert places(PolicyBody, body)[0] == place
    assert len(places(PolicyBody, body)) <= 16


def test_a_policy_takes_as_many_entries_as_the_engine() -> None:
    tools = [f"t{index}" for index in range(1000)]
    held = PolicyBody(allowed_tools=tools, blocked_tools=tools, max_calls_per_tool=dict.fromkeys(tools, 1))
    assert held.allowed_tools == held.blocked_tools == tools


def test_a_tools_lists_have_an_end() -> None:
    assert places(ToolBody, {**TOOL, "methods": ["GET"] * 65}) == ["methods"]
    assert places(ToolBody, {**TOOL, "dedup": {"ignore": ["x"] * 65}}) == ["dedup.ignore"]


def test_a_query_with_endless_parameters_is_one_finding() -> None:
    assert places(CallsQuery, {f"p{index}": "" for index in range(1000)}) == [""]


def test_a_reason_left_empty_by_null_is_none() -> None:
    assert ReasonBody.model_validate({"reason": None}) == ReasonBody()
