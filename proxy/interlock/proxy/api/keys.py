"""`/v1/keys`: the API keys of a namespace."""

from interlock.governance.v1 import admin_pb2 as pb
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


async def create(visit: Visit) -> object:
    body = await visit.body(KeyBody)
    asked = pb.CreateKeyRequest(role=ROLES[body.role], agent_id=body.agent_id or "", label=body.label)
    created = await visit.ask(visit.api.keys.CreateKey, asked)
    return {"key": created.key, **key_json(created.info)}


async def show_all(visit: Visit) -> object:
    return [key_json(key) for key in (await visit.ask(visit.api.keys.ListKeys, pb.ListKeysRequest())).keys]


async def revoke(visit: Visit) -> object:
    asked = pb.RevokeKeyRequest(key_id=visit.path("key_id", IDENTIFIER))
    return key_json(await visit.ask(visit.api.keys.RevokeKey, asked))


def key_json(key: pb.ApiKey) -> dict[str, object]:
    """A key without its value."""
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
    Operation("POST", "/v1/keys", create, "Make a key", body=KeyBody),
    Operation("GET", "/v1/keys", show_all, "List keys without their values"),
    Operation("DELETE", "/v1/keys/{key_id}", revoke, "Revoke a key"),
)
