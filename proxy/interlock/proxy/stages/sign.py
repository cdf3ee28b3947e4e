"""Sign: drafts what the tool is sent. Each try is then signed by itself, since signatures bear its time."""

from collections.abc import Callable
from dataclasses import replace

from interlock.governance.v1 import governance_pb2 as pb
from interlock.proxy.call import Call, Headers
from interlock.proxy.signing import Outgoing, signed_headers
from interlock.proxy.upstream import UpstreamRequest


async def sign(call: Call) -> Call:
    """Drafts the request by the manner of its entrance, and injects the tool's own credential."""
    draft = call.entrance.draft(call)
    return replace(call, draft=replace(draft, headers=_with_credential(draft.headers, call.tool.upstream_credential)))


def _with_credential(headers: Headers, credential: pb.UpstreamCredential) -> Headers:
    """The agent's own field of that name goes: a tool might read the first."""
    if not credential.header:
        return headers
    name = credential.header.lower()
    return (*(field for field in headers if field[0].lower() != name), (credential.header, credential.value))


def signed(call: Call, now: int, why_not: Callable[[], str]) -> UpstreamRequest:
    """One try of a call. `now` is in unix seconds; `why_not` is asked right before the first byte leaves."""
    draft, permit, tool = call.draft, call.verdict.permit, call.tool
    outgoing = Outgoing(
        method=draft.method,
        url=draft.url,
        body=draft.body,
        agent_id=permit.agent_id,
        call_id=permit.call_id,
        key=permit.key,
        fence=permit.fence,
    )
    return UpstreamRequest(
        method=draft.method,
        url=draft.url,
        headers=[*draft.headers, *signed_headers(outgoing, tool.secrets, tool.secret_id, now)],
        body=draft.body,
        timeout_s=tool.timeout_ms / 1000,
        why_not=why_not,
    )
