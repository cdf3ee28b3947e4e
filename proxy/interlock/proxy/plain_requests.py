"""The short way in: a call that comes whole, in plain HTTP/1.1, with nothing about it that needs a second look.

Most calls are such: a request line, each field once, a body by its length. They are read here with a few patterns that
know only what is beyond doubt. Whatever does not match (another version, no Host, chunks, Expect, a field twice, a
page's fields, a byte that is not ASCII, a second request behind the first, …) is no error: the same bytes go to
aiohttp, whose word on them is the only one. So there is one place that refuses, and nothing that two parsers could read
differently.
"""

import re

from interlock.governance.values import dataclass
from interlock.proxy.call import Headers, Incoming
from interlock.proxy.settings import KiB

MAX_HEAD_BYTES = 16 * KiB
MAX_BODY_BYTES = 64 * KiB
MAX_FIELDS = 64

# Visible ASCII but for a fragment and a backslash, as `check_target` has it, at the two doors that are worth it.
_REQUEST_LINE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/tools/[!-\"$-\[\]-~]+|/v1/ai/run) HTTP/1\.1")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([!-~](?:[\t -~]*[!-~])?)[ \t]*")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,8}")
# Fields that frame the message or change the protocol, and those that only a page's browser sends.
_UNUSUAL = frozenset(
    ("transfer-encoding", "te", "trailer", "upgrade", "http2-settings", "expect", "proxy-connection", "keep-alive")
)
_OF_A_PAGE = ("origin", "sec-")


@dataclass(frozen=True, slots=True)
class PlainHead:
    """The head of a plain request: `host` as it came, `length` of the body, which begins at `body_at`."""

    method: str
    target: str
    headers: Headers
    host: str
    sent_request_id: str
    length: int
    body_at: int

    def incoming(self, body: bytes, request_id: str) -> Incoming:
        return Incoming(self.method, self.target, self.headers, body, request_id)


def plain_head(data: bytes) -> PlainHead | None:
    """The head that `data` begins with, if it is there to its end and plain."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
    if end < 0:
        return None
    try:
        first, *lines = data[:end].decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        return None
    request = _REQUEST_LINE.fullmatch(first)
    fields = _fields(lines) if request else None
    if request is None or fields is None:
        return None
    headers, named = fields
    length = named.get("content-length", "0")
    if "host" not in named:
        return None
    if not _LENGTH.fullmatch(length) or named.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    method, target = request.groups()
    request_id = named.get("x-request-id", "")
    return PlainHead(method, target, headers, named["host"], request_id, int(length), end + 4)


def _fields(lines: list[str]) -> tuple[Headers, dict[str, str]] | None:
    """The fields as they came, and by their names in lower case; None if one is not plain."""
    headers: list[tuple[str, str]] = []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        headers.append((field[1], field[2]))
    named = {name.lower(): value for name, value in headers}
    if len(named) < len(headers) or len(named) > MAX_FIELDS or not named.keys().isdisjoint(_UNUSUAL):
        return None
    if [name for name in named if name.startswith(_OF_A_PAGE)]:
        return None
    return tuple(headers), named
