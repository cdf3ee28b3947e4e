"""Engine and sidecar derive the same key of a call: that is what lets a tool de-duplicate across an outage."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from interlock.governance.v1 import governance_pb2 as pb
from interlock.policy import rules
from interlock.policy.model import Dedup, Scope, Tool
from interlock.policy.services.messages import route_message
from interlock.proxy import outage
from interlock.proxy.call import Ask, Call, Incoming
from interlock.proxy.fingerprint import Fingerprint
from interlock.proxy.last_words import LastWord
from interlock.proxy.run_route import WholeAgent

NOBODY: Any = None


@given(
    tool=st.builds(
        Tool,
        name=st.just("charge"),
        scope_id=st.just("global"),
        url=st.just(""),
        dedup=st.sampled_from([None, *Dedup]),
        read_only=st.booleans(),
    ),
    method=st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
    caller_key=st.text(max_size=20).filter(lambda text: text.isprintable()),
    scope=st.builds(Scope, st.sampled_from(["acme", "default"]), st.sampled_from(["bot-1", "a:b"])),
    digest=st.binary(min_size=32, max_size=32),
    attempt_id=st.text("abc", min_size=1, max_size=5),
)
def test_both_derive_the_same_key_whatever_tool_and_call(
    tool: Tool, method: str, caller_key: str, scope: Scope, digest: bytes, attempt_id: str
) -> None:
    engines = rules.key_of(
        scope,
        mode=rules.dedup_mode(tool, method),
        caller_key=caller_key,
        fingerprint=digest,
        attempt_id=attempt_id,
    )
    route = route_message(tool, [], "")
    call = Call(
        NOBODY,
        WholeAgent(),
        Incoming(method, "/", (), b""),
        ask=Ask(tool=tool.name, method=method, idempotency_key=caller_key),
        tool=route,
        fingerprint=Fingerprint(call=digest, arguments=b""),
    )
    word = LastWord(scope.namespace, scope.agent_id, route, "low", 0.0)
    assert outage._key(call, word, attempt_id) == engines
    assert call.repeatable == rules.is_remembered(mode=rules.dedup_mode(tool, method), caller_key=caller_key)
    assert route.dedup_mode in pb.DedupMode.values()
