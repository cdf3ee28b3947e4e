"""Who may do what: pure checks of an identity's role and reach."""

from interlock.governance.errors import DeniedError, InvalidRequestError
from interlock.policy.model import AGENT_ID, NAMESPACE, Identity, Role, Scope


def acting_agent(identity: Identity, named: str) -> Scope:
    """The agent a call runs as: an agent key's own, or the one that an operator names.

    Errors: DeniedError for another's agent or a viewer, InvalidRequestError if an operator names none or a bad id.
    """
    if identity.role is Role.AGENT:
        return Scope(identity.namespace, _own(identity, named or identity.agent_id))
    require(identity, Role.OPERATOR)
    return Scope(identity.namespace, agent_id(named))


def readable_agent(identity: Identity, named: str) -> Scope:
    """The agent whose record may be read: an agent key's own, or any for a viewer."""
    if identity.role is Role.AGENT:
        return Scope(identity.namespace, _own(identity, named))
    return Scope(identity.namespace, agent_id(named))


def managed_agent(identity: Identity, named: str) -> Scope:
    """The agent that an operator may change."""
    require(identity, Role.OPERATOR)
    return Scope(identity.namespace, agent_id(named))


def require(identity: Identity, role: Role) -> None:
    if identity.role < role:
        raise DeniedError("permission_denied", f"this needs the role {role.name.lower()}")


def namespace(identity: Identity, named: str) -> str:
    """The namespace that an identity acts in: its own, or the one that an admin names.

    Errors: DeniedError for anybody else's, InvalidRequestError for a bad name.
    """
    if named in ("", identity.namespace):
        return identity.namespace
    if identity.role is not Role.ADMIN:
        raise DeniedError("permission_denied", "only an admin reaches another namespace than its key's own")
    return namespace_name(named)


def namespace_name(value: str) -> str:
    if not NAMESPACE.fullmatch(value):
        raise InvalidRequestError("invalid_namespace", "a namespace's name is 1-63 of a-z 0-9 -", field="namespace")
    return value


def agent_id(value: str) -> str:
    if not AGENT_ID.fullmatch(value):
        message = "an agent id is 1-128 of A-Z a-z 0-9 _ . @ : -" if value else "an agent must be named"
        raise InvalidRequestError("invalid_agent_id", message, field="agent_id")
    return value


def _own(identity: Identity, named: str) -> str:
    if named != identity.agent_id:
        raise DeniedError("permission_denied", "this key reaches its own agent only")
    return named
