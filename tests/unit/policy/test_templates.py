"""Templates of policies: what each lets through, and what overrides make of it."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from interlock.cli.policies import Template
from interlock.governance.errors import InvalidRequestError
from interlock.policy import policies, rules, templates
from interlock.policy.model import Policy, Terms, Tool
from interlock.proxy.api.models import TemplateBody

PAGE = (Path(__file__).parents[3] / "docs" / "http.md").read_text()
ROWS = {
    name: cells.split("|")
    for name, cells in re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.partition("## Templates")[2], re.MULTILINE)
}


def reason(template: str, name: str, *, read_only: bool = False) -> str:
    """Why a template refuses a tool; empty if it does not."""
    tool = Tool(name=name, scope_id="global", url="https://tools.example", read_only=read_only)
    return rules.lists(tool, Terms(templates.TEMPLATES[template])).reason


NONE = "\N{EN DASH}"
NOT_ALLOWED, BLOCKED = "tool_not_in_allowed_list", "tool_explicitly_blocked"


@pytest.mark.parametrize(
    ("template", "name", "read_only", "expected"),
    [
        ("strict", "search", True, NOT_ALLOWED),
        ("moderate", "send_mail", False, ""),
        ("moderate", "db.drop_table", False, BLOCKED),
        ("permissive", "delete_everything", False, ""),
        ("read_only", "search", True, ""),
        ("read_only", "search", False, NOT_ALLOWED),
        ("support_bot", "search", True, ""),
        ("support_bot", "search", False, NOT_ALLOWED),
        ("support_bot", "ticket.close", False, ""),
        ("support_bot", "ticket.delete", False, BLOCKED),
        ("support_bot", "refund_status", True, BLOCKED),
    ],
)
def test_each_template_lets_through_what_its_name_says(
    template: str, name: str, read_only: bool, expected: str
) -> None:
    assert reason(template, name, read_only=read_only) == expected


@pytest.mark.parametrize("template", templates.TEMPLATES)
def test_a_template_is_a_policy_that_could_be_set_as_it_is(template: str) -> None:
    policies.check(templates.policy_from(template, Policy(), []))
    assert templates.policy_from(template, Policy(), []) == templates.TEMPLATES[template]


def test_overrides_replace_the_fields_that_are_named_and_no_other() -> None:
    wanted = Policy(allowed_tools=("mail.*",), blocked_tools=(), max_actions_per_hour=1)
    made = templates.policy_from("support_bot", wanted, ["allowed_tools", "blocked_tools"])
    of_template = templates.TEMPLATES["support_bot"]
    assert (made.allowed_tools, made.blocked_tools) == (("mail.*",), ())
    assert made.max_actions_per_hour == of_template.max_actions_per_hour
    assert made.allow_read_only


@pytest.mark.parametrize(
    ("template", "overridden", "place"), [("lax", [], "template"), ("strict", ["tools"], "overrides.tools")]
)
def test_what_is_no_template_and_no_field_is_refused(template: str, overridden: list[str], place: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        templates.policy_from(template, Policy(), overridden)
    assert refused.value.metadata["field"] == place


def test_every_edge_knows_the_same_templates_and_fields() -> None:
    of_api = get_args(TemplateBody.model_fields["template"].annotation)
    assert [*templates.TEMPLATES] == [*of_api] == [*Template] == [*ROWS]
    assert {field.name for field in fields(Policy)} == templates.FIELDS


@pytest.mark.parametrize("template", templates.TEMPLATES)
def test_the_page_tells_the_numbers_of_each_template(template: str) -> None:
    policy = templates.TEMPLATES[template]
    spend = policy.max_spend_micros_per_day
    told = [
        str(policy.max_actions_per_hour),
        str(spend // templates.USD if spend is not None else None),
        str(policy.max_calls_per_tool.get("*", NONE)),
        f"`{policy.on_anomaly}`" if policy.on_anomaly else NONE,
    ]
    assert [cell.strip() for cell in ROWS[template][1:]] == told
    named = re.findall(r"`(\*[^`]+\*)`", ROWS[template][0])
    inherited = templates.DESTRUCTIVE if template == "support_bot" else ()
    assert {*named, *inherited} == {*policy.blocked_tools, *(policy.allowed_tools or ())}
