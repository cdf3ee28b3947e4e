"""Alerts on their way: the words between who decides what is sent, and who knows how to post and to mail."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Post:
    """A body to be posted, signed as a Standard Webhook under an id that is the same in every try."""

    webhook_id: str
    url: str
    secret: str = field(repr=False)
    body: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    """A text to be mailed, under an id that is the same in every try. `lines` are the body, field by field."""

    message_id: str
    recipients: tuple[str, ...]
    subject: str
    lines: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of a try. Without a `problem` it was taken; `gone` says that no other try will be."""

    problem: str = ""
    retry_after_ms: int = 0
    gone: bool = False
