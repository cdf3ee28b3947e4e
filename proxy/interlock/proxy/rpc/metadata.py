"""gRPC metadata as header fields, and which of it passes between agent and tool.

A field's value is as it stands on the wire: of a name that ends in `-bin`, base64 (gRPC over HTTP/2, "Requests").
"""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence

from interlock.governance.errors import InvalidRequestError
from interlock.proxy.call import Headers
from interlock.proxy.headers import forwardable, returnable

Metadata = Sequence[tuple[str, str | bytes]]

DETAILS = "grpc-status-details-bin"
"""The tool's own error details (google.rpc.Status), which its agent is to have."""

_BINARY = "-bin"
_RESERVED = "grpc-"
# Of the connection, or written anew by gRPC itself.
_NOT_FORWARDED = frozenset({"user-agent", "content-type", "accept-encoding"})


def fields_of(metadata: Iterable[tuple[str, str | bytes]]) -> Headers:
    """Metadata as fields. Bytes under another name than `-bin` are not ASCII, and shown as ISO-8859-1."""
    return tuple((name, _text(name, value)) for name, value in metadata)


def metadata_of(fields: Iterable[tuple[str, str]]) -> Metadata:
    """Fields as gRPC takes them. Errors: `invalid_header` for what is not base64 (`-bin`) or printable ASCII."""
    return tuple((name.lower(), _value(name.lower(), value)) for name, value in fields)


def passed_on(fields: Headers) -> Headers:
    """An agent's metadata that its tool may see. Errors: `invalid_header`."""
    kept = forwardable(fields)
    passed = tuple(field for field in kept if field[0] not in _NOT_FORWARDED and not field[0].startswith(_RESERVED))
    metadata_of(passed)  # refused now rather than when it is to be sent: the call is not judged yet
    return passed


def handed_back(fields: Headers) -> Headers:
    """A tool's metadata, initial or trailing, that its agent may see; what gRPC would not send is left out."""
    kept = (field for field in returnable(fields) if field[0].endswith(_BINARY) or _is_plain(field[1]))
    return tuple(field for field in kept if field[0] == DETAILS or not field[0].startswith(_RESERVED))


def _is_plain(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _text(name: str, value: str | bytes) -> str:
    if isinstance(value, str):
        return value
    return b64encode(value).decode() if name.endswith(_BINARY) else value.decode("iso-8859-1")


def _value(name: str, value: str) -> str | bytes:
    if not name.endswith(_BINARY):
        if not _is_plain(value):
            raise InvalidRequestError("invalid_header", f"the metadata {name} is not printable ASCII", field="headers")
        return value
    try:
        return b64decode(value + "=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise InvalidRequestError("invalid_header", f"the metadata {name} is not base64", field="headers") from error
