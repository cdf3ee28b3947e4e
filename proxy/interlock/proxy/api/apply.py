"""`/v1/apply`: tools and policies as a whole, as a file has them."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from interlock.governance.errors import InvalidRequestError
from interlock.governance.v1 import admin_pb2 as pb
from interlock.governance.v1 import configuration_pb2
from interlock.proxy.api.answer import ABSENT, Answer
from interlock.proxy.api.errors import InvalidField, InvalidFieldsError
from interlock.proxy.api.models import ApplyBody, PolicyBody, ToolBody, ToolFields
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.policies import AgentPolicy, policy_of
from interlock.proxy.api.tool_shown import Tool
from interlock.proxy.api.tools import check_destinations, put_request
from interlock.proxy.api.visit import Visit

TIMEOUT_S = 30.0
"""A thousand policies are a thousand steps."""
NOTHING = "Field required; to remove all that the owner manages, it is {}"
PREFIX = "CHANGE_ACTION_"
_NO_NEWS = ("name", "scope_id", "revision", "updated_at", "has_secret", "secret_id", "secret_mask")
"""Fields of a tool that name it, or follow from others; of secrets it is said that they change, and no more."""

Fields = Mapping[str, object]


class FieldChange(Answer):
    """A field that changes."""

    field: str
    """Its name, with dots: `dedup.ttl_s`; `secret` for what is never shown."""
    before: Any = ABSENT
    """As it was; absent for secrets."""
    after: Any = ABSENT
    """As it will be; absent for secrets."""
    changed: Literal[True] = ABSENT
    """Of a secret no more is said; absent for all else."""


class Change(Answer):
    """One tool or policy: what becomes of it."""

    kind: Literal["tool", "policy"]
    """What it is."""
    name: str
    """The tool, or the policy's agent."""
    scope_id: str = ABSENT
    """The tool's scope; absent for policies."""
    action: str
    """What is done: `created`, `updated`, `deleted` or `unchanged`."""
    fields: list[FieldChange]
    """Each field that changes; none for what is deleted."""
    held_off: Literal[True] = ABSENT
    """The tool's kill switch stays pulled, whatever the manifest says; absent otherwise."""

    @classmethod
    def of(cls, change: configuration_pb2.Change) -> Self:
        return cls(**_told(change))


class Applied(Answer):
    """What was, or in a dry run would be, changed."""

    dry_run: bool
    """Whether nothing was changed."""
    changes: list[Change]
    """Tool by tool, then policy by policy."""


async def apply(visit: Visit) -> Applied:
    body = await visit.body(ApplyBody, visit.api.max_apply_bytes)
    if body.owner and body.prune and body.model_fields_set.isdisjoint(("tools", "policies")):
        raise _invalid(("tools",), NOTHING)
    for key, fields in body.tools.items():
        try:
            check_destinations(visit.api.destinations, fields)
        except InvalidRequestError as error:
            raise _invalid(("tools", key, *error.metadata["field"].split(".")), error.message) from None
    answer = await visit.ask(visit.api.configuration.Apply, apply_request(body), TIMEOUT_S)
    return Applied(dry_run=body.dry_run, changes=[Change.of(change) for change in answer.changes])


def apply_request(body: ApplyBody) -> configuration_pb2.ApplyRequest:
    """A validated body as the engine takes it. Raises InvalidFieldsError if a name is not that of its key."""
    return configuration_pb2.ApplyRequest(
        owner=body.owner or "",
        namespace=body.namespace or "",
        tools=[put_request(tool_body(key, fields)) for key, fields in body.tools.items()],
        policies=[
            pb.PutPolicyRequest(agent_id=agent_id, policy=policy_of(_of(agent_id, policy)))
            for agent_id, policy in body.policies.items()
        ],
        dry_run=body.dry_run,
        prune=body.prune,
        force=body.force,
    )


def tool_body(key: str, fields: ToolFields) -> ToolBody:
    """The tool under a key, `NAME` or `agent:ID/NAME`. Raises InvalidFieldsError if its scope is given as another."""
    scope_id, _, name = key.rpartition("/")
    if scope_id and "scope_id" in fields.model_fields_set and fields.scope_id != scope_id:
        raise _invalid(("tools", key, "scope_id"), "Input should be that of the key, or be left out")
    given = {field: getattr(fields, field) for field in fields.model_fields_set}
    return ToolBody.model_construct(
        fields.model_fields_set, name=name, **given | ({"scope_id": scope_id} if scope_id else {})
    )


def _told(change: configuration_pb2.Change) -> dict[str, object]:
    action = configuration_pb2.ChangeAction.Name(change.action).removeprefix(PREFIX).lower()
    if change.HasField("policy_before") or change.HasField("policy_after"):
        agent_id = change.policy_after.agent_id or change.policy_before.agent_id
        before = _policy_fields(change.policy_before) if change.HasField("policy_before") else {}
        after = _policy_fields(change.policy_after) if change.HasField("policy_after") else {}
        return {"kind": "policy", "name": agent_id, "action": action, "fields": [*_differences(before, after)]}
    tool = change.tool_after if change.HasField("tool_after") else change.tool_before
    before = _tool_fields(change.tool_before) if change.HasField("tool_before") else {}
    after = _tool_fields(change.tool_after) if change.HasField("tool_after") else {}
    fields = [*_differences(before, after)]
    if change.secret_changed:
        fields.append(FieldChange(field="secret", changed=True))
    told = {"kind": "tool", "name": tool.name, "scope_id": tool.scope_id, "action": action, "fields": fields}
    return told | ({"held_off": True} if change.held_off else {})


def _differences(before: Fields, after: Fields) -> Iterator[FieldChange]:
    """Field by field; none for what is deleted."""
    for field in {**before, **after} if after else ():
        if before.get(field) != after.get(field):
            yield FieldChange(field=field, before=before.get(field), after=after.get(field))


def _tool_fields(tool: pb.Tool) -> Fields:
    shown = Tool.of(tool).model_dump(exclude_unset=True)
    return _flat({field: value for field, value in shown.items() if field not in _NO_NEWS})


def _policy_fields(held: pb.AgentPolicy) -> Fields:
    told = AgentPolicy.of(held).model_dump(exclude_unset=True)
    return _flat({"policy": told["policy"], "managed_by": told.get("managed_by")}, strip="policy.")


def _flat(fields: Fields, *, strip: str = "") -> Fields:
    """`{"dedup": {"ttl_s": 60}}` as `{"dedup.ttl_s": 60}`."""
    flat: dict[str, object] = {}
    for name, value in fields.items():
        below = _flat(value) if isinstance(value, dict) else None
        flat |= {name: value} if below is None else {f"{name}.{inner}": held for inner, held in below.items()}
    return {name.removeprefix(strip): value for name, value in flat.items()}


def _of(agent_id: str, policy: PolicyBody) -> PolicyBody:
    if policy.agent_id not in {None, agent_id}:
        raise _invalid(("policies", agent_id, "agent_id"), "Input should be that of the key, or be left out")
    return policy


def _invalid(place: tuple[str, ...], message: str) -> InvalidFieldsError:
    return InvalidFieldsError([InvalidField("invalid_request", ("body", *place), message)])


OPERATIONS = (
    Operation(
        "POST",
        "/v1/apply",
        apply,
        "Apply tools and policies, as a whole",
        Applied,
        body=ApplyBody,
        role="operator",
        refusals=(402, 409),
    ),
)
