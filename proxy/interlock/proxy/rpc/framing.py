"""Messages as a record keeps them: one behind the other, each as gRPC frames it, uncompressed.

Source: gRPC over HTTP/2, "Length-Prefixed-Message": a byte for the compression, four for the length, then the message.
"""

from collections.abc import Iterator

HEAD_BYTES = 5


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def messages_in(body: bytes) -> Iterator[bytes]:
    """What `framed` put together. Of a record that is cut short, what is whole."""
    at = 0
    while at + HEAD_BYTES <= len(body):
        start = at + HEAD_BYTES
        at = start + int.from_bytes(body[at + 1 : start], "big")
        if at <= len(body):
            yield body[start:at]
