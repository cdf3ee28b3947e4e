"""Sign: drafts what the tool is sent. Each try is then signed by itself, since signatures bear its time."""

from collections.abc import Callable

from interlock.governance.values import replace
from interlock.proxy.call import Call
from interlock.proxy.credential import Credential
from interlock.proxy.signing import Outgoing, signed_headers
from interlock.proxy.upstream import UpstreamRequest


async def sign(call: Call) -> Call:
    """Drafts the request by the manner of its entrance."""
    return replace(call, draft=call.entrance.draft(call))


def signed(call: Call, credential: Credential | None, now: int, why_not: Callable[[], str]) -> UpstreamRequest:
    """One try of a call, with the tool's own credential. `now` is in unix seconds; `why_not` is asked right before the
    first byte leaves.
    """
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
    headers = credential.on(draft.headers) if credential is not None else draft.headers
    return UpstreamRequest(
        method=draft.method,
        url=draft.url,
        headers=[*headers, *signed_headers(outgoing, tool.secrets, tool.secret_id, now)],
        body=draft.body,
        timeout_s=tool.timeout_ms / 1000,
        why_not=why_not,
    )
