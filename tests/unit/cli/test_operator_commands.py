import inspect
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from interlock.cli import agents, audit, calls, keys, namespaces, policies, switch, tools
from interlock.cli.client import FAILED, MAX_LISTED, NOT_FOUND, UNREACHABLE, USAGE
from interlock.proxy.api.queries import ListQuery

KEY = "once_live_" + "a" * 43


@dataclass
class FakeApi:
    """What the API was asked over HTTP, and what it answers: the commands are under test, not the API."""

    asked: list[tuple[str, str, object]] = field(default_factory=list)
    authorization: str = ""
    namespace: str | None = None
    status: int = 200
    answer: Any = field(default_factory=dict)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    fake = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fake.asked.append((self.command, self.path, json.loads(raw) if raw else None))
            fake.authorization = self.headers["Authorization"]
            fake.namespace = self.headers["Interlock-Namespace"]
            body = json.dumps(fake.answer).encode()
            self.send_response(fake.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the names http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in http.server
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("INTERLOCK_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("INTERLOCK_API_KEY", KEY)
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


def run(app: Any, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_a_new_key_is_printed_for_programs(api: FakeApi) -> None:
    api.answer = {"key": KEY, "key_id": "key_1"}
    code, out, _ = run(keys.app, "create", "--role", "agent", "--agent", "billing", "--json")
    assert (code, json.loads(out)["key"]) == (0, KEY)
    assert api.asked == [("POST", "/v1/keys", {"role": "agent", "agent_id": "billing", "label": ""})]
    assert api.authorization == f"Bearer {KEY}"


def test_a_command_acts_in_the_namespace_that_it_is_told(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.answer = []
    seen = []
    for arguments in (["list"], ["list", "--namespace", "team-a"], ["list"]):
        assert run(keys.app, *arguments)[0] == 0
        seen.append(api.namespace)
    monkeypatch.setenv("INTERLOCK_NAMESPACE", "team-b")
    for arguments in (["list"], ["list", "--namespace", "team-a"]):
        assert run(keys.app, *arguments)[0] == 0
        seen.append(api.namespace)
    assert seen == [None, "team-a", None, "team-b", "team-a"]


def test_every_command_of_every_group_takes_a_namespace() -> None:
    for app in (agents.app, calls.app, keys.app, policies.app, switch.app, tools.app):
        for command in app.registered_commands:
            assert command.callback is not None
            assert "namespace" in inspect.signature(command.callback).parameters, command.callback


def test_a_namespace_that_no_header_could_carry_is_wrong_usage(api: FakeApi) -> None:
    code, _, err = run(keys.app, "list", "--namespace", "team\n-a")
    assert (code, api.asked) == (USAGE, [])
    assert "1-63 of a-z 0-9 -" in err


def test_a_namespace_is_put_from_a_file_with_flags_over_it(api: FakeApi, tmp_path: Path) -> None:
    api.answer = {"name": "team-a", "limits": {"name": "pro", "tools": 10}, "usage": {"runs": 3}}
    file = tmp_path / "team.yaml"
    file.write_text("plan: pro\ndefault_policy: {blocked_tools: [x]}\n")
    code, out, _ = run(namespaces.app, "put", "team-a", "-f", str(file), "--description", "the first")
    assert code == 0
    body = {"plan": "pro", "default_policy": {"blocked_tools": ["x"]}, "description": "the first"}
    assert api.asked == [("POST", "/v1/namespaces/team-a", body)]
    assert re.search(r"limit of tools +10", out)
    assert re.search(r"used: runs +3", out)
    run(namespaces.app, "delete", "team-a", "--force", "--json")
    assert api.asked[1] == ("DELETE", "/v1/namespaces/team-a?force=true", None)


def test_a_switch_names_what_it_stops(api: FakeApi) -> None:
    run(switch.app, "on", "--scope", "tool", "--name", "charge", "--scope-id", "agent:a", "--reason", "broken")
    body = {"pulled": True, "reason": "broken", "name": "charge", "scope_id": "agent:a"}
    assert api.asked == [("POST", "/v1/switches/tool", body)]


def test_people_see_a_key_whole_too(api: FakeApi) -> None:
    api.answer = {"key": KEY, "key_id": "key_1"}
    assert KEY in run(keys.app, "create", "--role", "viewer")[1]


def test_a_table_in_a_pipe_breaks_no_cell(api: FakeApi) -> None:
    url = "https://pay.example/" + "charge/" * 40
    api.answer = [{"name": "charge", "url": url}]
    code, out, _ = run(tools.app, "list")
    assert code == 0
    assert url in out


@pytest.mark.parametrize(
    ("status", "detail", "exit_code"),
    [
        (403, {"error": "permission_denied", "message": "not yours"}, FAILED),
        (404, {"error": "tool_not_found", "message": "no such tool"}, NOT_FOUND),
    ],
)
def test_a_failure_tells_why_on_stderr_and_by_its_exit_code(
    api: FakeApi, status: int, detail: dict[str, str], exit_code: int
) -> None:
    api.status, api.answer = status, {"detail": detail}
    code, out, err = run(tools.app, "show", "charge", "--json")
    assert (code, out) == (exit_code, "")
    assert detail["message"] in err


def test_an_api_out_of_reach_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("INTERLOCK_API_KEY", KEY)
    code, _, err = run(switch.app, "status")
    assert code == UNREACHABLE
    assert "http://127.0.0.1:1" in err
    assert KEY not in err


def test_without_a_key_nothing_is_asked(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTERLOCK_API_KEY")
    code, _, err = run(keys.app, "list")
    assert code == USAGE
    assert "INTERLOCK_API_KEY" in err
    assert api.asked == []


def test_a_tool_is_put_from_a_file_with_flags_over_it(api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "charge.yaml"
    file.write_text("name: charge\nurl: https://old.example\nmethods: [PUT]\ndedup: {ttl_s: 60}\n")
    code, *_ = run(tools.app, "put", "-f", str(file), "--url", "https://new.example", "--on-ambiguous", "hold")
    assert code == 0
    assert api.asked[0][2] == {
        "name": "charge",
        "url": "https://new.example",
        "methods": ["PUT"],
        "dedup": {"ttl_s": 60},
        "on_ambiguous": "hold",
    }


def test_a_tool_is_put_from_flags_alone_with_its_secret_from_the_environment(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_TOOL_SECRET", "s3cr3t-s3cr3t")
    code, *_ = run(tools.app, "put", "charge", "--url", "https://pay.example", "--method", "GET", "--read-only")
    assert code == 0
    assert api.asked[0][2] == {
        "name": "charge",
        "url": "https://pay.example",
        "auth": {"type": "hmac_sha256", "secret": "s3cr3t-s3cr3t"},
        "methods": ["GET"],
        "read_only": True,
    }


OAUTH2 = ("--oauth-token-url", "https://login.example/token", "--oauth-client-id", "client-1")


def test_a_credential_is_put_by_flags_and_its_secret_from_the_environment(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_TOOL_CREDENTIAL", "client-secret")
    run(tools.app, "put", "charge", *OAUTH2, "--oauth-scope", "charge", "--oauth-auth-style", "post")
    run(tools.app, "put", "charge", "--credential-header", "X-Api-Key")
    assert [body["upstream_credential"] for _, _, body in api.asked] == [
        {
            "type": "oauth2_client_credentials",
            "token_url": "https://login.example/token",
            "client_id": "client-1",
            "scope": "charge",
            "auth_style": "post",
            "client_secret": "client-secret",
        },
        {"header": "X-Api-Key", "value": "client-secret"},
    ]


def test_a_credentials_secret_may_come_by_standard_input(api: FakeApi) -> None:
    code, *_ = run(tools.app, "put", "charge", *OAUTH2, "--credential-stdin", stdin="client-secret\n")
    assert (code, api.asked[0][2]["upstream_credential"]["client_secret"]) == (0, "client-secret")


def test_a_stored_client_secret_is_kept_without_one(api: FakeApi) -> None:
    run(tools.app, "put", "charge", *OAUTH2)
    assert "client_secret" not in api.asked[0][2]["upstream_credential"]


def test_a_credential_is_removed_only_if_told_so(api: FakeApi) -> None:
    run(tools.app, "put", "charge")
    run(tools.app, "put", "charge", "--no-credential")
    assert ["upstream_credential" in body for _, _, body in api.asked] == [False, True]
    assert api.asked[1][2]["upstream_credential"] is None


@pytest.mark.parametrize(
    "flags",
    [
        ("--credential-header", "X-Api-Key"),
        ("--no-credential", *OAUTH2),
        ("-f", "-", "--credential-stdin", *OAUTH2),
    ],
)
def test_half_a_credential_is_a_mistake_of_usage(api: FakeApi, flags: tuple[str, ...]) -> None:
    code, _, err = run(tools.app, "put", "charge", *flags, stdin="{}")
    assert (code, api.asked) == (2, [])
    assert err


def test_a_document_may_come_by_standard_input(api: FakeApi) -> None:
    api.answer = {"agent_id": "billing", "policy": {}}
    code, *_ = run(policies.app, "put", "billing", "-f", "-", stdin='{"blocked_tools": ["mail.*"]}')
    assert (code, api.asked[0][2]) == (0, {"blocked_tools": ["mail.*"]})


def test_what_is_shown_of_a_policy_may_be_put_again_with_a_limit_more(api: FakeApi) -> None:
    api.answer = {"agent_id": "billing", "policy": {"blocked_tools": ["mail.*"]}, "managed_by": "payments-team"}
    _, shown, _ = run(policies.app, "show", "billing", "--json")
    code, *_ = run(policies.app, "put", "billing", "-f", "-", "--max-actions-per-hour", "100", stdin=shown)
    assert code == 0
    assert api.asked[-1][2] == {"blocked_tools": ["mail.*"], "max_actions_per_hour": 100}


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "a: 1\na: 2", "price: .nan", "since: 2026-01-01", "\x00"])
def test_a_file_that_is_no_document_is_wrong_usage_and_sends_nothing(api: FakeApi, tmp_path: Path, text: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    code, _, err = run(policies.app, "put", "billing", "-f", str(file))
    assert code == USAGE
    assert "policy.yaml" in err
    assert api.asked == []


def test_a_policy_is_put_from_flags_with_its_money_exact(api: FakeApi) -> None:
    api.answer = {"agent_id": "billing", "policy": {"allowed_tools": []}}
    arguments = ("--max-spend-usd-per-day", "0.10", "--price", "charge=0.07", "--max-calls", "charge=3")
    code, out, _ = run(policies.app, "put", "billing", *arguments, "--allow", "charge")
    assert code == 0
    assert api.asked[0][2] == {
        "allowed_tools": ["charge"],
        "max_spend_usd_per_day": 0.1,
        "max_calls_per_tool": {"charge": 3},
        "pricing_rules": [{"tool": "charge", "price_usd": 0.07}],
    }
    assert "none" in out  # an empty allowlist reads otherwise than an absent one


def test_a_policy_is_made_of_a_template_with_what_a_file_and_flags_have_otherwise(api: FakeApi) -> None:
    api.answer = {"agent_id": "billing", "policy": {"allow_read_only": True}}
    flags = ("--allow", "charge", "--max-actions-per-hour", "5")
    given = '{"blocked_tools": [], "max_actions_per_hour": 9}'
    code, out, _ = run(policies.app, "from-template", "billing", "read_only", "-f", "-", *flags, stdin=given)
    assert code == 0
    overrides = {"allowed_tools": ["charge"], "blocked_tools": [], "max_actions_per_hour": 5}
    assert api.asked == [
        ("POST", "/v1/policies/billing/from-template", {"template": "read_only", "overrides": overrides})
    ]
    assert "allow read only  yes" in out
    assert run(policies.app, "from-template", "billing", "lax")[0] == USAGE


def test_a_policy_is_deleted(api: FakeApi) -> None:
    api.answer = {"ok": True, "deleted": True}
    assert run(policies.app, "delete", "billing", "--json")[0] == 0
    assert api.asked == [("DELETE", "/v1/policies/billing", None)]


@pytest.mark.parametrize(
    "flags",
    [
        ("--price", "charge"),
        ("--price", "=1"),
        ("--price", "charge=x"),
        ("--max-calls", "charge=1.5"),
        ("--max-spend-usd-per-day", "nan"),
        ("--max-spend-usd-per-day", "sNaN"),
        ("--max-spend-usd-per-day", "1e400"),
        ("--max-spend-usd-per-day", "0.10000000000000000001"),
    ],
)
def test_an_amount_that_cannot_be_sent_as_it_is_written_is_wrong_usage(api: FakeApi, flags: tuple[str, str]) -> None:
    assert run(policies.app, "put", "billing", *flags)[0] == USAGE
    assert api.asked == []


def test_names_cannot_climb_out_of_their_place_in_the_path(api: FakeApi) -> None:
    run(agents.app, "disable", "../keys?x=#", "--reason", "loop", "--json")
    assert api.asked == [("POST", "/v1/agents/..%2Fkeys%3Fx%3D%23/disable", {"reason": "loop"})]


@pytest.mark.parametrize(("flag", "outcome"), [("--succeeded", "succeeded"), ("--not-sent", "not_sent")])
def test_a_call_is_resolved_either_way(api: FakeApi, flag: str, outcome: str) -> None:
    code, *_ = run(calls.app, "resolve", "call_1", flag, "--note", "asked the bank", "--json")
    assert code == 0
    assert api.asked[0][1:] == (
        "/v1/calls/call_1/resolve",
        {"outcome": outcome, "note": "asked the bank", "agent_id": None},
    )


def test_a_call_is_not_resolved_without_a_word_on_what_happened(api: FakeApi) -> None:
    assert run(calls.app, "resolve", "call_1")[0] == USAGE
    assert api.asked == []


@pytest.mark.parametrize(("command", "pulled"), [("on", True), ("off", False)])
def test_a_switch_is_pulled_and_lifted(api: FakeApi, command: str, pulled: bool) -> None:
    run(switch.app, command, "--scope", "global", "--reason", "night")
    assert api.asked == [("POST", "/v1/switches/global", {"pulled": pulled, "reason": "night"})]


def test_what_others_wrote_does_not_move_the_readers_cursor(api: FakeApi) -> None:
    api.answer = [{"scope": "namespace", "pulled": True, "reason": "\x1b[2J[red]all fine[/]\r"}]
    _, out, _ = run(switch.app, "status")
    assert "\x1b" not in out
    assert "\r" not in out
    assert "[red]all fine[/]" in out


def test_logs_show_the_time_of_a_decision_to_people(api: FakeApi) -> None:
    api.answer = [{"ts": 1_767_225_600, "tool": "charge", "decision": "executed"}]
    _, out, _ = run(agents.app, "logs", "billing", "--limit", "5")
    assert "2026-01-01 00:00:00Z" in out
    assert api.asked[0][1] == "/v1/agents/billing/logs?limit=5"


def test_agents_are_listed_with_what_they_did_beside_what_they_may(api: FakeApi) -> None:
    agent = {
        "agent_id": "billing",
        "is_enabled": False,
        "last_seen_at": "2026-01-01T00:00:00.000Z",
        "actions_in_hour": 7,
        "max_actions_per_hour": 100,
        "spend_usd_today": 1.5,
        "max_spend_usd_per_day": None,
        "blocked_today": 3,
        "running_calls": 1,
        "unknown_calls": 2,
    }
    api.answer = [agent]
    code, out, err = run(agents.app, "list", "--after", "a", "--limit", "1")
    assert (code, api.asked[0][1]) == (0, "/v1/agents?after=a&limit=1")
    assert "7 of 100" in out
    assert "$1.50" in out
    assert "--after billing" in err  # a full page is perhaps not the last
    assert json.loads(run(agents.app, "list", "--json")[1]) == [agent]


def test_audit_asks_for_what_comes_after(api: FakeApi) -> None:
    api.answer = []
    assert run(audit.app, "show", "--agent", "billing", "--after", "7", "--json") == (0, "[]\n", "")
    assert api.asked[0][1] == "/v1/audit?agent_id=billing&after_seq=7&limit=100"


def test_help_documents_the_exit_codes() -> None:
    for app in (agents.app, audit.app, calls.app, keys.app, policies.app, switch.app, tools.app):
        assert "Exit codes" in run(app, "--help")[1]


def test_lists_are_as_long_as_the_api_allows() -> None:
    (bound,) = [constraint.le for constraint in ListQuery.model_fields["limit"].metadata if hasattr(constraint, "le")]
    assert bound == MAX_LISTED
