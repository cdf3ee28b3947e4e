"""A real receiver over HTTP, and everything it may answer."""

import asyncio
import json
import time
from email.utils import formatdate

import pytest
from aiohttp import web
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook

from interlock.audit.ports import SinkRefusedError, SinkUnavailableError
from interlock.audit.settings import HttpSettings
from interlock.audit.sinks.http import HttpSink, retry_after_s
from tests.tool import Tool, answers, never_answers, resets
from tests.unit.audit.trails import lines

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def sink_to(tool: Tool, **settings: object) -> HttpSink:
    return HttpSink(HttpSettings(url=tool.url, **settings))


async def test_a_batch_is_one_request_in_the_batched_format_of_cloudevents(tool: Tool) -> None:
    sink, batch = sink_to(tool, bearer_token="t0ken"), lines(3)
    await sink.deliver(batch)
    (received,) = tool.received
    assert (received.method, received.header("Content-Type")) == ("POST", "application/cloudevents-batch+json")
    assert received.header("Authorization") == "Bearer t0ken"
    assert received.body == b"[" + b",".join(batch) + b"]"
    one = {"content-type": "application/cloudevents+json"}  # of batches the SDK knows nothing
    messages = [HTTPMessage(one, json.dumps(event).encode()) for event in json.loads(received.body)]
    events = [from_structured_event(message, JSONFormat()) for message in messages]
    assert [event.get_id() for event in events] == ["acme/bot-1/1", "acme/bot-1/2", "acme/bot-1/3"]
    await sink.close()


@pytest.mark.parametrize("secret", [SECRET, "correct horse battery"])
async def test_a_batch_is_signed_as_standard_webhooks_are_and_bears_one_id_however_often_it_comes(
    tool: Tool, secret: str
) -> None:
    sink = sink_to(tool, hmac_secret=secret)
    for _ in range(2):
        await sink.deliver(lines(3))
    key = secret if secret == SECRET else secret.encode()
    for received in tool.received:
        assert Webhook(key).verify(received.body, {name.lower(): value for name, value in received.headers})
    assert len({received.header("webhook-id") for received in tool.received}) == 1
    await sink.close()


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_what_will_never_be_taken_is_refused(tool: Tool, status: int) -> None:
    sink = sink_to(tool.does(answers(status)))
    with pytest.raises(SinkRefusedError, match=str(status)):
        await sink.deliver(lines(1))
    await sink.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404, 408, 429, 500, 503])
async def test_everything_else_means_later_and_a_redirect_is_not_followed(tool: Tool, status: int) -> None:
    sink = sink_to(tool.does(answers(status, headers={"Location": "/elsewhere", "Retry-After": "7"})))
    with pytest.raises(SinkUnavailableError, match=str(status)) as later:
        await sink.deliver(lines(1))
    assert later.value.retry_after_s == 7
    assert len(tool.received) == 1
    await sink.close()


async def test_a_receiver_that_hangs_breaks_or_is_not_there_is_left_in_time(tool: Tool) -> None:
    sink = sink_to(tool.does(never_answers(), resets()), timeout_ms=200)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(SinkUnavailableError):
            await sink.deliver(lines(1))
    await tool.stop()
    with pytest.raises(SinkUnavailableError):
        await sink.deliver(lines(1))
    assert time.monotonic() - began < 5
    await sink.close()


async def test_an_answer_without_end_is_not_waited_for(tool: Tool) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)
            await asyncio.sleep(0)

    sink = sink_to(tool.does(endless), timeout_ms=20_000)
    async with asyncio.timeout(10):
        await sink.deliver(lines(1))
    await sink.close()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("soon", None),
        ("7", 7),
        ("-7", None),
        ("1e3", None),
        ("٣", None),
        ("99999999", 300),
        ("9" * 400, None),
        (formatdate(1_000_060, usegmt=True), 60),
        (formatdate(999_000, usegmt=True), 0),
        ("Fri, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_more_than_five_minutes(value: str, seconds: float | None) -> None:
    assert retry_after_s({"Retry-After": value}, 1_000_000) == seconds
