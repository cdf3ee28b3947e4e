"""Which header fields a tool's own credential may be injected as: engine and sidecar judge by the same rule."""

# Fields that say where a message goes and where it ends (RFC 9110 7, RFC 9112 6).
_FRAMING = frozenset(
    ("host", "content-length", "transfer-encoding", "te", "trailer", "connection", "upgrade", "expect", "keep-alive")
)
# What speaks for Interlock: a tool must find one value there, ours.
_OURS = frozenset(("idempotency-key", "content-digest", "signature", "signature-input"))
_OUR_PREFIXES = ("interlock-", "x-onceonly-", "webhook-")


def why_not_injectable(header: str) -> str:
    """Why no credential may stand in this field, or empty."""
    name = header.lower().replace("_", "-")  # as CGI and WSGI read it
    if name in _FRAMING:
        return "this header frames the message and cannot be injected"
    if name in _OURS or name.startswith(_OUR_PREFIXES):
        return "this header is set by Interlock and cannot be injected"
    return ""
