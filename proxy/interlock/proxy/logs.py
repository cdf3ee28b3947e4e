"""Logs: JSON, one object a line, to stderr. Events are named `noun.verb`; a call writes at most one, `call.finished`.

Arguments, keys and secrets are not logged in the first place; `drop_secrets` sees to it that a mistake leaks none.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

DROPPED = "[dropped]"

# Fields that hold one by their name; `key_id` and `secret_id` name one without telling it.
_SECRET_NAME = re.compile(
    r"(^|_)(key|secrets?|tokens?|passwords?|authorization|cookies?|credentials?|signature|args|arguments|body)$",
    re.IGNORECASE,
)
# Our own keys, Standard Webhooks secrets, credentials of HTTP's Authorization, the password in a URL, a private key.
_SECRET_VALUE = re.compile(
    r"once_live_\w+|whsec_[\w+/=-]+|\b(?:bearer|basic)\s+[^\s\"',]+|(?<=://)[^\s/@\"']*:[^\s/@\"']*(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.IGNORECASE,
)


def drop_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: replaces what looks like a key or a secret, by its field's name or by its own looks."""
    return {name: _safe(name, value) for name, value in event.items()}


def _safe(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return DROPPED
    if isinstance(value, str):
        return _SECRET_VALUE.sub(DROPPED, value)
    if isinstance(value, Mapping):
        return {inner: _safe(str(inner), held) for inner, held in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe("", held) for held in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _SECRET_VALUE.sub(DROPPED, repr(value))


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends structlog's and the standard library's records, from `level` up, to `stream` (stderr) as JSON lines."""
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor] = [
        structlog.processors.format_exc_info,
        drop_secrets,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(threshold, stream, shared, render)


def _configure_standard_library(
    threshold: int, stream: TextIO, shared: list[Processor], render: list[Processor]
) -> None:
    """aiohttp, grpc and asyncio log there; nobody's warning shall be lost or break the JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
