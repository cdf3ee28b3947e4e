import json

from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import governance_pb2 as governance
from interlock.proxy.api.models import ToolBody
from interlock.proxy.api.tool_shown import Tool
from interlock.proxy.api.tools import put_request

LEAST = {"name": "charge", "url": "https://pay.example/charge"}
FULL = {
    **LEAST,
    "scope_id": "agent:billing",
    "auth": {"type": "hmac_sha256", "secret": "s3cr3t-s3cr3t", "grace_s": 60},
    "timeout_ms": 250,
    "max_retries": 0,
    "enabled": False,
    "description": "Charges a card",
    "methods": ["POST", "PUT"],
    "subpaths": True,
    "dedup": {"mode": "header", "ttl_s": 60, "ignore": ["trace"], "run_id": "argument"},
    "on_ambiguous": "hold",
    "read_only": True,
    "risk": "high",
    "upstream_credential": {"header": "X-Api-Key", "value": "upstream-secret"},
    "replay_max_bytes": 0,
    "on_governance_failure": "open",
    "open_max_calls_per_minute": 3,
    "reconcile_url": "https://pay.example/outcome",
    "reconcile_deadline_s": 60,
    "reconcile_timeout_ms": 250,
}
SHOWN_AS_PUT = FULL.keys() - {"auth", "upstream_credential"}


def shown_of(tool: pb.Tool) -> dict[str, object]:
    return Tool.of(tool).model_dump(exclude_unset=True)


def put(body: dict[str, object]) -> pb.PutToolRequest:
    return put_request(ToolBody.model_validate(body))


def test_every_field_reaches_the_engine_and_comes_back() -> None:
    shown = shown_of(put(FULL).tool)
    assert {name: shown[name] for name in SHOWN_AS_PUT} == {name: FULL[name] for name in SHOWN_AS_PUT}


def test_secrets_go_beside_the_tool_and_never_come_back() -> None:
    request = put(FULL)
    assert request.secret == "s3cr3t-s3cr3t"
    assert request.secret_grace_s == 60
    assert request.upstream_credential == governance.UpstreamCredential(header="X-Api-Key", value="upstream-secret")
    request.tool.has_secret = True
    shown = shown_of(request.tool)
    assert shown["has_secret"] is True
    assert "s3cr3t" not in json.dumps(shown)
    assert "upstream-secret" not in json.dumps(shown)


def test_what_is_left_out_is_left_to_the_engines_defaults() -> None:
    request = put(LEAST)
    for field in ("timeout_ms", "max_retries", "enabled", "dedup_ttl_s", "replay_max_bytes", "reconcile_deadline_s"):
        assert not request.tool.HasField(field)
    assert request.tool.dedup_mode == governance.DEDUP_MODE_UNSPECIFIED
    assert list(request.tool.methods) == []


def test_secrets_left_out_stay_and_a_null_credential_is_removed() -> None:
    kept, removed = put(LEAST), put({**LEAST, "upstream_credential": None})
    assert not kept.HasField("secret")
    assert not kept.HasField("upstream_credential")
    assert removed.HasField("upstream_credential")
    assert removed.upstream_credential.header == ""


def test_without_a_dedup_mode_none_is_shown() -> None:
    assert "mode" not in shown_of(pb.Tool())["dedup"]


def test_a_retry_tool_is_shown_as_one_even_unspecified() -> None:
    assert shown_of(pb.Tool())["on_ambiguous"] == "retry"


def test_the_time_of_change_is_rfc_3339_in_utc() -> None:
    assert shown_of(pb.Tool(updated_at_ms=1_767_225_600_123))["updated_at"] == "2026-01-01T00:00:00.123Z"


OAUTH2 = {
    "type": "oauth2_client_credentials",
    "token_url": "https://login.example/token",
    "client_id": "client-1",
    "client_secret": "client-secret",
    "scope": "charge",
    "audience": "https://pay.example",
    "auth_style": "post",
    "header": "X-Token",
    "scheme": "",
    "params": {"resource": "r"},
}


def test_a_token_credential_reaches_the_engine_and_comes_back_without_its_secret() -> None:
    told = put({**LEAST, "upstream_credential": OAUTH2}).upstream_credential
    assert (told.header, told.oauth2.client_secret) == ("", "client-secret")
    shown = shown_of(pb.Tool(upstream_oauth2=told.oauth2, upstream_mask="••••"))["upstream_credential"]
    assert shown == {name: value for name, value in OAUTH2.items() if name != "client_secret"} | {"mask": "••••"}


def test_a_header_credential_is_shown_by_its_name_and_a_mask() -> None:
    shown = shown_of(pb.Tool(upstream_header="X-Api-Key", upstream_mask="•••• cret"))["upstream_credential"]
    assert shown == {"type": "header", "header": "X-Api-Key", "mask": "•••• cret"}
