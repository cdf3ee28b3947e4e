"""`/v1/keys`: the API keys of a namespace."""

from typing import Literal, Self

from interlock.governance.v1 import admin_pb2 as pb
from interlock.proxy.api.answer import Answer, Time
from interlock.proxy.api.models import IDENTIFIER, KeyBody
from interlock.proxy.api.operation import Operation
from interlock.proxy.api.times import rfc3339
from interlock.proxy.api.visit import Visit

ROLES = {
    "agent": pb.ROLE_AGENT,
    "viewer": pb.ROLE_VIEWER,
    "operator": pb.ROLE_OPERATOR,
    "admin": pb.ROLE_ADMIN,
}
ROLE_NAMES = {role: name for name, role in ROLES.items()}


class Key(Answer):
    """An API key without its value."""

    key_id: str
    """Names it, to revoke it."""
    role: Literal["agent", "viewer", "operator", "admin"] | None
    """What it may do."""
    agent_id: str | None
    """The agent that it is of."""
    label: str
    """For people."""
    namespace: str
    """What it reaches."""
    created_at: Time | None
    """When it was made."""
    revoked_at: Time | None
    """When it was revoked."""

    @classmethod
    def of(cls, key: pb.ApiKey) -> Self:
        return cls(**_fields(key))


class NewKey(Key):
    """A key that was just made."""

    key: str
    """Its value, told this once and not kept."""

    @classmethod
    def created(cls, created: pb.CreateKeyResponse) -> Self:
        return cls(key=created.key, **_fields(created.info))


async def create(visit: Visit) -> NewKey:
    body = await visit.body(KeyBody)
    asked = pb.CreateKeyRequest(role=ROLES[body.role], agent_id=body.agent_id or "", label=body.label)
    created = await visit.ask(visit.api.keys.CreateKey, asked)
    return NewKey.created(created)


async def show_all(visit: Visit) -> list[Key]:
    return [Key.of(key) for key in (await visit.ask(visit.api.keys.ListKeys, pb.ListKeysRequest())).keys]


async def revoke(visit: Visit) -> Key:
    asked = pb.RevokeKeyRequest(key_id=visit.path("key_id", IDENTIFIER))
    return Key.of(await visit.ask(visit.api.keys.RevokeKey, asked))


def _fields(key: pb.ApiKey) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "role": ROLE_NAMES.get(key.role),
        "agent_id": key.agent_id or None,
        "label": key.label,
        "namespace": key.namespace,
        "created_at": rfc3339(key.created_at_ms),
        "revoked_at": rfc3339(key.revoked_at_ms),
    }


OPERATIONS = (
    Operation("POST", "/v1/keys", create, "Make a key", NewKey, body=KeyBody, role="operator"),
    Operation("GET", "/v1/keys", show_all, "List keys, without their values", list[Key], role="operator"),
    Operation("DELETE", "/v1/keys/{key_id}", revoke, "Revoke a key", Key, role="operator"),
)
