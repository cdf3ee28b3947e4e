"""The pages say what the code does: routes, roles, fields, headers and metrics stand there, and snippets run."""

import ast
import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_message_signatures import InvalidSignature
from pydantic import BaseModel
from standardwebhooks import WebhookVerificationError

from interlock.cli import manifest
from interlock.governance.errors import BY_KIND, DeniedError, Kind
from interlock.governance.inquiries import Said
from interlock.governance.v1 import governance_pb2 as pb
from interlock.policy import access
from interlock.policy.model import Identity, Role
from interlock.proxy.api import routes
from interlock.proxy.api.errors import answer_of
from interlock.proxy.api.models import Dedup, OAuth2Credential, PolicyBody, ToolBody
from interlock.proxy.asking import finding_of
from interlock.proxy.call import Decision
from interlock.proxy.metrics import Metrics
from interlock.proxy.run_route import PATH as RUN_PATH
from interlock.proxy.signing import Outgoing, signed_headers
from interlock.proxy.tallies import Tally
from interlock.proxy.timings import Timings
from tests.acceptance.test_reach import CALL, an_agents

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "helm").rglob("*.md")])
HTTP, FOR_TOOLS, OPERATIONS, ERRORS = (
    (ROOT / "docs" / name).read_text() for name in ("http.md", "for-tools.md", "operations.md", "errors.md")
)
ALERTS = (ROOT / "docs" / "alerts.md").read_text()
CREDENTIALS = (ROOT / "docs" / "credentials.md").read_text()
ROUTE = re.compile(r"^\| (GET|POST|PUT|PATCH|DELETE) \| `([^`]+)` \| (\w+) \|", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
HEADER = re.compile(r"[A-Z][A-Za-z0-9]*(-[A-Z][A-Za-z0-9]*)+")
OF_THE_CONNECTION = {"Accept-Encoding", "User-Agent", "Content-Length", "Transfer-Encoding"}
"""Names that the code knows in order to leave them alone, or to say where an answer ends."""
OF_THE_PAGE = {"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"}
"""What browsers are told with the page of the admin listener."""

PLAIN, WHSEC, OTHER = "correct horse", "whsec_" + base64.b64encode(bytes(range(24))).decode(), "another secret"


def section(page: str, title: str) -> str:
    """What stands under a heading, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_cells(table: str) -> set[str]:
    """What the rows of a table are about."""
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


# Links.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor[1:] in map(slug, headings), path + anchor


def test_decisions_are_numbered_without_gaps_and_none_twice() -> None:
    records = sorted((ROOT / "docs" / "decisions").iterdir())
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        assert record.read_text().startswith(f"# {int(record.name[:4])}. "), record.name


# docs/http.md


def test_the_page_has_every_route_and_no_other() -> None:
    told = {(method, path) for method, path, _ in ROUTE.findall(HTTP)}
    assert told == {*((of.method, of.path) for of in routes.OPERATIONS), ("POST", RUN_PATH)}


def test_each_value_of_the_decision_header_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", section(HTTP, "What comes back"), re.MULTILINE)
    assert {*rows} == {*Decision}


@pytest.mark.parametrize(
    ("title", "model"), [("A tool's fields", ToolBody), ("A tool's fields", Dedup), ("A policy's fields", PolicyBody)]
)
def test_each_field_that_is_accepted_is_named(title: str, model: type[BaseModel]) -> None:
    text = section(HTTP, title)
    prefix = "dedup." if model is Dedup else ""
    missing = [name for name in model.model_fields if f"`{prefix}{name}`" not in text]
    # `dedup` is named by its own fields; the agent of a policy is the path's.
    assert {*missing} <= {"dedup", "agent_id"}


def test_the_page_names_no_field_of_a_tool_that_is_not_accepted() -> None:
    own = {name.partition(".")[0] for name in first_cells(section(HTTP, "A tool's fields"))}
    assert own <= {*ToolBody.model_fields}


@pytest.mark.parametrize("role", [Role.AGENT, Role.VIEWER, Role.OPERATOR, Role.ADMIN])
def test_the_roles_of_the_pages_are_those_of_the_engine(role: Role) -> None:
    assert f"`{role.name.lower()}`" in section(OPERATIONS, "Keys and roles")
    told = {named for _, _, named in ROUTE.findall(HTTP)}
    assert told == {"own", "viewer", "operator", "admin"}
    identity = Identity("key_1", "default", role, "a1" if role is Role.AGENT else "")
    assert access.readable_agent(identity, "a1").agent_id == "a1"
    if role is Role.VIEWER:
        with pytest.raises(DeniedError):
            access.acting_agent(identity, "a1")
    else:
        assert access.acting_agent(identity, "a1").agent_id == "a1"


def test_the_routes_of_agents_are_those_that_an_agents_key_is_proven_to_reach() -> None:
    told = {(method, path) for method, path, role in ROUTE.findall(HTTP) if role == "own"}
    templates = [*((of.method, of.path) for of in routes.OPERATIONS), ("POST", RUN_PATH)]
    proven = {
        (method, template)
        for asked_method, asked, _ in an_agents("a1", "charge", CALL)
        for method, template in templates
        if method == asked_method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), asked.partition("?")[0])
    }
    assert told == proven


def strings_of(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def headers_of_the_code() -> set[str]:
    modules = (ROOT / "proxy").rglob("*.py")
    named = {text for module in modules for text in strings_of(module) if HEADER.fullmatch(text)}
    return (
        (named | {"Authorization", "Prefer", "RateLimit", "Origin", "Host", "Allow", "Signature"})
        - OF_THE_CONNECTION
        - OF_THE_PAGE
    )


@pytest.mark.parametrize("name", sorted(headers_of_the_code()))
def test_every_header_that_the_code_reads_or_writes_is_on_a_page(name: str) -> None:
    assert f"`{name}`" in HTTP + FOR_TOOLS + ALERTS


def test_the_pages_name_no_header_of_ours_that_the_code_does_not_know() -> None:
    ours = re.findall(r"`((?:Interlock|X-OnceOnly|Idempoten\w+)-[A-Za-z-]*[a-z])`", HTTP + FOR_TOOLS)
    assert len({*ours}) >= 10
    assert {*ours} <= headers_of_the_code()


# docs/operations.md


def test_every_metric_is_on_the_page_with_its_labels_and_no_other() -> None:
    suffixes = {"counter": "_total", "info": "_info"}
    known = {}
    for collector in Metrics()._registry._collector_to_names:
        metric: Any = collector
        if isinstance(metric, Timings | Tally):
            known[metric.name] = {metric.label} if isinstance(metric, Timings) else {*metric.labels}
            continue
        labels = ("version", "python") if metric._type == "info" else metric._labelnames
        known[metric._name + suffixes.get(metric._type, "")] = {*labels}
    rows = re.findall(r"^\| `(interlock_\w+)` \|([^|]*)\| (\w+) \|", OPERATIONS, re.MULTILINE)
    assert {name: {*re.findall(r"`(\w+)`", labels)} for name, labels, _ in rows} == known


def test_every_field_of_a_calls_line_in_the_log_is_named() -> None:
    source = ast.parse((ROOT / "proxy" / "interlock" / "proxy" / "pipeline.py").read_text())
    (line,) = [
        node
        for node in ast.walk(source)
        if isinstance(node, ast.Call)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value == "call.finished"
    ]
    told = section(OPERATIONS, "Logs")
    assert [field.arg for field in line.keywords if f"`{field.arg}`" not in told] == []


# docs/errors.md


KINDS = {
    **dict.fromkeys(("invalid_tool", "invalid_policy", "invalid_role"), Kind.INVALID),
    **dict.fromkeys(("agent_id_mismatch", "one_mode"), Kind.INVALID),
    "run_queue_full": Kind.EXHAUSTED,
    "run_lost": Kind.CONFLICT,
    **dict.fromkeys(("policy_not_found", "key_not_found", "call_not_found", "no_such_route"), Kind.NOT_FOUND),
    **dict.fromkeys(("call_not_open", "tool_changing", "managed_by_another", "configuration_changing"), Kind.CONFLICT),
    **dict.fromkeys(("invalid_cursor", "invalid_namespace", "unknown_plan", "unknown_template"), Kind.INVALID),
    **dict.fromkeys(("namespace_in_use", "namespace_deleted", "namespace_changing"), Kind.CONFLICT),
    "namespace_not_found": Kind.NOT_FOUND,
    "alert_not_dead": Kind.NOT_FOUND,
    "invalid_alerting": Kind.INVALID,
    "payment_required": Kind.EXHAUSTED,
    "feature_not_available": Kind.DENIED,
    "too_many_followers": Kind.EXHAUSTED,
}


OF_LEASES = {
    "not_found": Kind.NOT_FOUND,
    **dict.fromkeys(("lease_not_held", "lease_settled", "duplicate"), Kind.CONFLICT),
}


def test_the_statuses_of_locks_and_leases_are_those_that_are_sent() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", section(ERRORS, "On locks and leases"), re.MULTILINE)
    assert {reason: int(status) for reason, status in rows} == {
        reason: answer_of(BY_KIND[kind](reason, "…")).status for reason, kind in OF_LEASES.items()
    }
    assert {answer_of(DeniedError(reason, "…")).status for reason in ("kill_switch", "agent_disabled")} == {423}


def test_the_statuses_of_operators_routes_are_those_that_are_sent() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", section(ERRORS, "On operators' routes only"), re.MULTILINE)
    assert {reason: int(status) for reason, status in rows} == {
        reason: answer_of(BY_KIND[kind](reason, "…")).status for reason, kind in KINDS.items()
    }


# docs/credentials.md


def test_the_tools_of_the_page_on_credentials_are_accepted() -> None:
    found = re.findall(r"^```json\n(.*?)^```", CREDENTIALS, re.MULTILINE | re.DOTALL)
    assert len(found) == 2
    for tool in found:
        ToolBody.model_validate_json(tool.replace("…", "x"))


def test_each_field_of_a_token_credential_is_named() -> None:
    told = first_cells(section(CREDENTIALS, "A token by OAuth 2.0"))
    assert told == OAuth2Credential.model_fields.keys() - {"type"}


# deploy/manifest.schema.json


def test_the_schema_of_manifests_is_that_of_the_code() -> None:
    """If it is not: `make schema`."""
    assert json.loads((ROOT / "deploy" / "manifest.schema.json").read_text()) == manifest.schema()


# docs/for-tools.md: its snippets, run against what the sidecar sends.


def snippets(title: str) -> dict[str, Any]:
    """What the snippet under a heading defines."""
    code = re.findall(r"^```python\n(.*?)^```", section(FOR_TOOLS, title), re.MULTILINE | re.DOTALL)
    defined: dict[str, Any] = {"__name__": title}
    exec(compile("\n".join(code), f"docs/for-tools.md: {title}", "exec"), defined)
    return defined


def call(**changes: Any) -> Outgoing:
    fields: dict[str, Any] = {
        "method": "POST",
        "url": "http://tool.example:9000/charge?card=1",
        "body": b'{"amount": 5}',
        "agent_id": "shopper",
        "call_id": "call_1",
        "key": "ab" * 32,
        "fence": 7,
    }
    return Outgoing(**fields | changes)


def sent(*secrets: str, out: Outgoing | None = None, age_s: int = 0) -> dict[str, str]:
    return dict(signed_headers(out or call(), secrets, "sec_1", int(time.time()) - age_s))


Check = Callable[[str, dict[str, str], bytes], object]


def plain(secret: str, headers: dict[str, str], body: bytes) -> None:
    if not snippets("Plain HMAC")["is_signed"](secret, headers, body):
        raise InvalidSignature


def webhooks(secret: str, headers: dict[str, str], body: bytes) -> None:
    assert snippets("Standard Webhooks")["verified_key"](secret, headers, body) == headers["Idempotency-Key"]


def rfc9421(secret: str, headers: dict[str, str], body: bytes) -> None:
    rfc9421_verifies(secret, call().url, headers, body)


def rfc9421_verifies(secret: str, url: str, headers: dict[str, str], body: bytes) -> None:
    snippets("RFC 9421")["verify"](secret, "POST", url, headers, body)


ALL = pytest.mark.parametrize("check", [plain, webhooks, rfc9421])
REFUSED = (InvalidSignature, WebhookVerificationError)


@ALL
@pytest.mark.parametrize("secret", [PLAIN, WHSEC])
@pytest.mark.parametrize("body", [b'{"amount": 5}', b""])
def test_each_snippet_verifies_what_is_sent(check: Check, secret: str, body: bytes) -> None:
    check(secret, sent(secret, out=call(body=body)), body)


@ALL
@pytest.mark.parametrize("secrets", [(PLAIN, OTHER), (OTHER, PLAIN), (WHSEC, PLAIN), (PLAIN, WHSEC)])
def test_each_snippet_verifies_during_a_rotation_with_either_secret(check: Check, secrets: tuple[str, str]) -> None:
    for secret in secrets:
        check(secret, sent(*secrets), call().body)


@ALL
def test_each_snippet_refuses_another_body_another_secret_and_no_signature(check: Check) -> None:
    unsigned = {name: value for name, value in sent(PLAIN).items() if name in {"Idempotency-Key", "Interlock-Agent"}}
    for headers, body in ((sent(PLAIN), b'{"amount": 6}'), (sent(OTHER), call().body), (unsigned, call().body)):
        with pytest.raises(REFUSED):
            check(PLAIN, headers, body)


@pytest.mark.parametrize("check", [webhooks, rfc9421])
def test_the_snippets_that_know_the_time_refuse_an_old_call(check: Check) -> None:
    check(PLAIN, sent(PLAIN, age_s=200), call().body)
    with pytest.raises(REFUSED):
        check(PLAIN, sent(PLAIN, age_s=900), call().body)


@pytest.mark.parametrize("name", ["Idempotency-Key", "Interlock-Agent", "Interlock-Call-Id", "Interlock-Fence"])
def test_the_snippet_for_rfc9421_finds_what_the_others_do_not_cover(name: str) -> None:
    headers = sent(PLAIN)
    headers[name] += "0"
    with pytest.raises(InvalidSignature):
        rfc9421(PLAIN, headers, call().body)


def test_every_header_that_a_tool_is_sent_is_on_its_page() -> None:
    missing = [name for name in sent(PLAIN, OTHER) if f"`{name}`" not in FOR_TOOLS]
    assert missing == []


def test_the_books_of_the_example_never_act_after_they_have_said_that_they_did_not(tmp_path: Path) -> None:
    example = snippets("Being asked what became of a call")
    books, acted = example["open_books"](tmp_path / "books"), []
    key, question = "ab" * 32, {"key": "ab" * 32, "fence": 7}

    def act(_: object) -> str:
        acted.append(key)
        return "done"

    assert example["outcome"](books, question) == {"outcome": "not_happened"}
    with pytest.raises(example["TooLateError"]):
        example["handle"](books, key, 7, act)
    assert acted == []
    # A retry comes with a greater fence, and is then what is told of.
    assert example["handle"](books, key, 8, act) == "done"
    assert example["handle"](books, key, 9, act) == "done"
    told = example["outcome"](books, question)
    assert finding_of(json.dumps(told).encode(), 1_000).answer == pb.Answer(
        status=200, body=b"done", kept=True, size=4, digest=hashlib.sha256(b"done").digest()
    )
    assert acted == [key]


def test_what_a_tool_is_told_to_answer_is_understood() -> None:
    answers = re.findall(r'^({"outcome".*})$', section(FOR_TOOLS, "Being asked what became of a call"), re.MULTILINE)
    inline = re.findall(r'`({"outcome":[^`]+})`', section(FOR_TOOLS, "Being asked what became of a call"))
    assert [finding_of(answer.encode(), 65_536).said for answer in (*answers, *inline)] == [
        Said.HAPPENED,
        Said.NOT_HAPPENED,
        Said.UNKNOWN,
    ]


RUN = ("Plain HMAC", "Standard Webhooks", "RFC 9421", "gRPC", "Being asked what became of a call")


def test_there_is_no_snippet_that_is_not_run() -> None:
    run = sum(section(FOR_TOOLS, title).count("```python") for title in RUN)
    assert sum(page.read_text().count("```python") for page in PAGES) == run
