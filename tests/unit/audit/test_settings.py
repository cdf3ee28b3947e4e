"""What an exporter may be told, and what it is told to put right."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from interlock.audit.settings import AuditSettings


def test_nothing_is_exported_unless_a_sink_is_named() -> None:
    assert (AuditSettings().exports, AuditSettings().cap) == (False, -1)


def test_a_sink_brings_the_cap_with_it() -> None:
    settings = AuditSettings.model_validate({"file": {"folder": "/x"}, "http": {"url": "https://y"}, "stdout": True})
    assert (settings.sinks, settings.cap) == (("stdout", "file", "http"), 100_000)
    assert settings.file is not None
    assert settings.file.folder == Path("/x")


@pytest.mark.parametrize(
    ("http", "said"),
    [
        ({"url": "ftp://x"}, "must be http"),
        ({"url": "https://"}, "must be http"),
        ({"url": "https://user:word@x"}, "without user info"),
        ({"url": "https://x", "bearer_token": "two words"}, "without space"),
        ({"url": "https://x", "bearer_token": "line\nbreak"}, "printable ASCII"),
        ({"url": "https://x", "hmac_secret": "short"}, "at least 8"),
        ({"url": "https://x", "hmac_secret": "whsec_not base64!"}, "must be base64"),
        ({"url": "https://x", "timeout_ms": 1}, "greater than or equal"),
        ({"url": "https://x", "colour": "red"}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused_without_being_shown(http: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        AuditSettings.model_validate({"http": http})
    told = str(refused.value.errors(include_input=False, include_url=False, include_context=False))
    assert "word" not in told.replace("two words", "")
    assert "base64!" not in told


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("https://collector.example/x", False),
        ("http://localhost:9/x", False),
        ("http://127.0.0.1:9", False),
        ("http://[::1]:9", False),
        ("http://collector.example/x?token=secret", True),
    ],
)
def test_only_loopback_is_posted_to_in_the_clear(url: str, clear: bool) -> None:
    http = AuditSettings.model_validate({"http": {"url": url}}).http
    assert http is not None
    assert http.in_the_clear == clear
    assert "secret" not in http.shown_url
    accepted = AuditSettings.model_validate({"http": {"url": url, "allow_plaintext": True}}).http
    assert accepted is not None
    assert not accepted.in_the_clear
