"""`/package.Service/Method`: the agent's message goes to the tool as it is, the tool's answer comes back as it is."""

import re

from interlock.governance.errors import InterlockError, InvalidRequestError, NotFoundError
from interlock.governance.tool_urls import is_grpc
from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Ask, Call, Draft, Incoming
from interlock.proxy.rpc.metadata import passed_on
from interlock.proxy.stages.intercept import OwnIdentity, RequestFields

CONTENT_TYPE = "application/grpc"
"""What every message counts as, whatever codec the agent names behind a `+`: bytes."""

_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
_METHOD = re.compile(rf"/({_IDENTIFIER}(?:\.{_IDENTIFIER})*)/({_IDENTIFIER})")
_MAX_NAME = 128


class RpcEntrance:
    """Calls as gRPC: service, method and message are the agent's.

    The tool `package.Service.Method` is meant, or, where that does not exist, `package.Service` if it takes sub-paths.
    """

    def __init__(self, own: OwnIdentity) -> None:
        self._own = own

    async def read(self, incoming: Incoming) -> Ask:
        service, method = names_in(incoming.target)
        fields = RequestFields(incoming)
        return Ask(
            tool=f"{service}.{method}",
            wider_tool=service,
            path=incoming.target,
            content_type=CONTENT_TYPE,
            arguments=incoming.body,
            headers=passed_on(incoming.headers),
            credential=fields.credential(self._own.key),
            agent_id=fields.agent_id(self._own.agent_id),
            idempotency_key=fields.idempotency_key(),
            spend_micros=fields.spend_micros(),
            run_id=fields.run_id(),
            wait_s=fields.wait_s(),
        )

    def refusal(self, ask: Ask, tool: pb.ToolRoute) -> InterlockError | None:
        if not is_grpc(tool.url):
            return InvalidRequestError("tool_is_http", f"the tool {ask.tool} speaks HTTP: call it at /tools/{ask.tool}")
        # A name may be read both ways: a.b.c is the method c of a.b, or the service a.b.c.
        if ask.wider_tool and tool.subpaths:
            return InvalidRequestError(
                "tool_is_service", f"the tool {ask.tool} is a whole service (subpaths: true), and no method"
            )
        if not ask.wider_tool and not tool.subpaths:
            return NotFoundError("subpath_not_allowed", f"the tool {ask.tool} takes no methods (subpaths: true)")
        if tool.dedup_mode == pb.DEDUP_MODE_HEADER and not ask.idempotency_key:
            return InvalidRequestError("idempotency_key_required", "this tool wants an idempotency-key with every call")
        return None

    def draft(self, call: Call) -> Draft:
        """Its URL is what signatures cover: the tool's, with the method behind it."""
        ask = call.ask
        return Draft(ask.method, call.tool.url.rstrip("/") + ask.path, ask.headers, ask.arguments)


def names_in(target: str) -> tuple[str, str]:
    """Service and method of a path. Errors: `invalid_path`."""
    found = _METHOD.fullmatch(target)
    if found is None or len(target) > _MAX_NAME + 1:
        raise InvalidRequestError(
            "invalid_path", f"the path is not /package.Service/Method of at most {_MAX_NAME + 1} characters"
        )
    return found[1], found[2]
