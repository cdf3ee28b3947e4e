import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from interlock.proxy.logs import DROPPED, configure

KEY = "once_live_" + "a" * 43


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # else configure() would close pytest's own
    written = io.StringIO()
    configure("info", written)
    yield written
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_line_with_event_level_and_utc_time(stream: io.StringIO) -> None:
    structlog.get_logger().info("call.finished", tool="charge", added_us=312)
    (record,) = lines(stream)
    assert record["event"] == "call.finished"
    assert record["level"] == "info"
    assert record["added_us"] == 312
    assert str(record["timestamp"]).endswith("Z")


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    structlog.get_logger().debug("call.started")
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "field",
    ["key", "api_key", "x-api-key", "secret", "tool_secret", "Authorization", "password", "token", "args", "cookie"],
)
def test_a_field_named_like_a_secret_is_dropped(stream: io.StringIO, field: str) -> None:
    structlog.get_logger().info("call.finished", **{field: "hunter2"}, nested={"list": [{field: "hunter3"}]})
    (record,) = lines(stream)
    assert record[field] == DROPPED
    assert record["nested"] == {"list": [{field: DROPPED}]}


@pytest.mark.parametrize("field", ["key_id", "secret_id", "call_id", "tool", "reason", "keys_left"])
def test_a_field_that_only_names_a_thing_stays(stream: io.StringIO, field: str) -> None:
    structlog.get_logger().info("call.finished", **{field: "key_1"})
    assert lines(stream)[0][field] == "key_1"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"bad key {KEY}", KEY),
        ("Bearer abc.def", "abc.def"),
        ("BASIC dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("redis://user:hunter2@redis:6379/0", "hunter2"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", "MIIE"),
        ("-----BEGIN EC PRIVATE KEY-----\nMIIE cut off", "MIIE"),
    ],
)
def test_what_looks_like_a_secret_is_dropped_wherever_it_stands(stream: io.StringIO, text: str, secret: str) -> None:
    structlog.get_logger().info(text, nested={"list": [text, {"text": text}]}, error=ValueError(text), tool="charge")
    (record,) = lines(stream)
    assert secret not in stream.getvalue()
    assert record["tool"] == "charge"


def test_a_url_without_a_password_stays(stream: io.StringIO) -> None:
    structlog.get_logger().info("sidecar.started", engine="grpc://engine:8402/x", mail="a@b")
    assert lines(stream)[0]["engine"] == "grpc://engine:8402/x"


def test_an_exceptions_traceback_is_cleaned_too(stream: io.StringIO) -> None:
    try:
        int(KEY)
    except ValueError:
        structlog.get_logger().exception("request.failed")
    assert KEY not in stream.getvalue()
    assert "ValueError" in str(lines(stream)[0]["exception"])


def test_warnings_of_libraries_come_out_as_json_and_cleaned(stream: io.StringIO) -> None:
    logging.getLogger("aiohttp.server").warning("bad header %s", KEY)
    (record,) = lines(stream)
    assert record["logger"] == "aiohttp.server"
    assert record["event"] == f"bad header {DROPPED}"


def test_a_libraries_chatter_is_not_written(stream: io.StringIO) -> None:
    logging.getLogger("aiohttp.access").info("GET / 200")
    assert stream.getvalue() == ""
