"""The key of a call: what makes two calls the same, and the `Idempotency-Key` that the tool is sent.

The engine derives it for every call that it judges. A sidecar derives it itself only for a call that goes through while
no engine can be asked: that the two agree is what lets the tool de-duplicate across an outage.
"""

import hashlib

SAFE_METHODS = frozenset({"GET", "HEAD"})
"""Methods that change nothing (RFC 9110, section 9.2.1) and so are not de-duplicated unless the tool says so."""


def call_key(
    namespace: str, agent_id: str, *, deduplicated: bool, caller_key: str, fingerprint: bytes, attempt_id: str
) -> str:
    """64 hex digits, of the caller's own key if one was sent, else of the call's content, else of the attempt.

    Namespace and agent are part of it, so no agent can reach another's record, neither here nor at a tool.
    """
    if caller_key:
        kind, value = b"caller", caller_key.encode()
    elif deduplicated:
        kind, value = b"derived", fingerprint
    else:
        kind, value = b"attempt", attempt_id.encode()
    return _digest(namespace, agent_id, kind, value)


def run_action_key(namespace: str, agent_id: str, run: str, index: int, action: bytes) -> str:
    """64 hex digits for an action of a keyed run: `run` is the digest of its key, `action` that of what was queued.

    A kind of its own, so that no `Idempotency-Key` an agent may send is ever taken for it.
    """
    return _digest(namespace, agent_id, b"run", run.encode(), str(index).encode(), action)


def _digest(namespace: str, agent_id: str, *what: bytes) -> str:
    parts = (b"interlock/key/1", namespace.encode(), agent_id.encode(), *what)
    return hashlib.sha256(b"".join([len(part).to_bytes(4) + part for part in parts])).hexdigest()
