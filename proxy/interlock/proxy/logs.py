"""Logs: JSON, one object a line, to stderr. Events are named `noun.verb`; a call writes at most one, `call.finished`.

Arguments, keys and secrets are not logged in the first place; the two processors here see to it that a mistake leaks
none: `drop_named_secrets` goes by a field's name, `drop_visible_secrets` by what stands in the finished line.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

DROPPED = "[dropped]"

# `key_id` and `secret_id` name a secret without telling it, and stay.
_SECRET_NAME = re.compile(
    r"(^|[_-])(key|secrets?|tokens?|passwords?|authorization|cookies?|credentials?|signature|args|arguments|body)$",
    re.IGNORECASE,
)
# Our keys, Standard Webhooks secrets, what follows Bearer and Basic, user and password in a URL, private keys.
_SECRET_TEXT = re.compile(
    r"once_live_\w+|whsec_[\w+/=-]+|\b(?:bearer|basic) +[^\s\"',\\]+|(?<=://)[^\s/@\"']*:[^\s/@\"']*(?=@)"
    r"|-----begin [a-z ]*private key-----.*?(?:-----end [a-z ]*private key-----|(?=\")|\Z)",
    re.IGNORECASE | re.DOTALL,
)
# Without one of these there is nothing to find: looking for them first is far cheaper than the search itself.
_MARKS = ("once_live_", "whsec_", "bearer ", "basic ", "://", "private key")

_AS_REPR = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


_LISTS = (list, tuple, set, frozenset)
_PLAIN = frozenset((str, int, float, bool, type(None)))
_LEVELS = {"warn": "warning", "exception": "error"}


def stamp(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Adds level and UTC time."""
    event["level"] = _LEVELS.get(method, method)
    event["timestamp"] = datetime.now(UTC).isoformat().removesuffix("+00:00") + "Z"
    return event


def drop_named_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replaces the values of fields that are named like a secret, at any depth."""
    return {
        name: value if type(value) in _PLAIN and not _names_a_secret(name) else _kept(name, value)
        for name, value in event.items()
    }


def drop_visible_secrets(_logger: WrappedLogger, _method: str, line: str) -> str:
    """Replaces what looks like a key or a secret in a rendered line."""
    return _SECRET_TEXT.sub(DROPPED, line) if any(map(line.lower().__contains__, _MARKS)) else line


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, default=repr, option=_AS_REPR).decode()
    except orjson.JSONEncodeError:  # half a surrogate pair, an int of more than 64 bits
        return json.dumps(event, default=repr)


def _kept(name: str, value: Any) -> Any:
    if _names_a_secret(name):
        return DROPPED
    if isinstance(value, dict):
        return {str(inner): _kept(str(inner), held) for inner, held in value.items()}
    if isinstance(value, _LISTS):
        return [_kept("", held) for held in value]
    return value


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends structlog's and the standard library's records, from `level` up, to `stream` (stderr) as JSON lines."""
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    first: list[Processor] = [stamp]
    last: list[Any] = [  # not Processor: the last one takes the line that the one before it made
        structlog.processors.format_exc_info,
        drop_named_secrets,
        _render,
        drop_visible_secrets,
    ]
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(threshold, stream, first, last)


def _configure_standard_library(threshold: int, stream: TextIO, first: list[Processor], last: list[Any]) -> None:
    """aiohttp, grpc and asyncio log there; nobody's warning shall be lost or break the JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
