import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.proxy.masking import is_readable, mask_of

TOKEN = "tok/en+with=signs-0123456789"
STARS = "*" * len(TOKEN)


def masked(value: str, *pieces: bytes) -> list[bytes]:
    mask = mask_of(value)
    assert mask is not None

    async def coming() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def collected() -> list[bytes]:
        return [piece async for piece in mask.pieces(coming())]

    return asyncio.run(collected())


def whole(value: str, *pieces: bytes) -> bytes:
    return b"".join(masked(value, *pieces))


def test_a_credential_is_masked_by_as_many_stars() -> None:
    assert whole("k-12345678", b"a k-12345678 b k-12345678") == b"a ********** b **********"


def test_what_follows_the_scheme_is_masked_alone_too() -> None:
    assert whole(f"Bearer {TOKEN}", f"Bearer {TOKEN}|{TOKEN}".encode()) == f"*******{STARS}|{STARS}".encode()


def test_what_basic_encodes_is_masked_as_well() -> None:
    basic = "Basic " + base64.b64encode(b"user:pass-word-1").decode()
    assert whole(basic, b"user:pass-word-1, pass-word-1, user") == b"****************, ***********, user"
    assert basic[6:].encode() not in whole(basic, basic.encode())


@pytest.mark.parametrize(
    "spelling",
    [json.dumps(TOKEN)[1:-1], TOKEN.replace("/", "\\/"), quote(TOKEN, safe=""), quote(TOKEN, safe="").lower()],
)
def test_json_and_percent_encoding_hide_nothing(spelling: str) -> None:
    assert whole(f"Bearer {TOKEN}", spelling.encode()) == b"*" * len(spelling)


@pytest.mark.parametrize(
    ("secret", "spelling"),
    [
        ("bm8+c2Vj/g==", r"bm8\u002Bc2Vj/g=="),  # System.Text.Json
        ("a<b>c&d'e\\f\"g", r"a\u003Cb\u003Ec\u0026d\u0027e\\f\u0022g"),
        ("a<b>c&d'e\\f\"g", r"a\u003cb\u003ec\u0026d'e\\f\"g"),  # encoding/json
        ("a<b>c&d'e\"f", "a&lt;b&gt;c&amp;d&#x27;e&quot;f"),
        ("a<b>c&d'e\"f", "a&lt;b&gt;c&amp;d&#39;e&#34;f"),
        ("pass/word!(1)", "pass%2Fword!(1)"),  # encodeURIComponent
        ("pass/word=1 2", "pass/word%3D1%202"),
    ],
)
def test_nor_do_those_who_escape_more_than_they_must_or_less(secret: str, spelling: str) -> None:
    assert whole(f"Bearer {secret}", f"-{spelling}-".encode()) == b"-" + b"*" * len(spelling) + b"-"


def test_a_secret_that_is_too_short_is_not_looked_for() -> None:
    assert mask_of("1234567") is None
    assert whole("Bearer 12345", b"12345 Bearer 12345") == b"12345 ************"


@given(st.lists(st.integers(1, 40)), st.binary(max_size=20), st.binary(max_size=20))
def test_however_a_body_is_cut_the_mask_is_the_same(cuts: Iterable[int], before: bytes, after: bytes) -> None:
    value = f"Bearer {TOKEN}"
    body = before + value.encode() + after + TOKEN.encode() + before
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(body[at : at + cut])
        at += cut
    pieces.append(body[at:])
    assert whole(value, *pieces) == whole(value, body)
    assert TOKEN.encode() not in whole(value, *pieces)
    assert len(whole(value, *pieces)) == len(body)


def test_only_what_may_begin_a_secret_waits_for_the_next_piece() -> None:
    assert masked("k-12345678", b"event: 1\n\n", b"then k-123", b"45678!", b"k-") == [
        b"event: 1\n\n",
        b"then ",
        b"**********!",
        b"k-",
    ]


def test_headers_are_masked_in_names_and_values() -> None:
    mask = mask_of("k-12345678")
    assert mask is not None
    assert mask.headers([("X-Echo", "a k-12345678"), ("X-k-12345678", "b")]) == (
        ("X-Echo", "a **********"),
        ("X-**********", "b"),
    )


def test_a_mask_shows_nothing_of_what_it_masks() -> None:
    assert "12345678" not in repr(mask_of("k-12345678"))


@pytest.mark.parametrize(
    ("coding", "readable"), [("identity", True), ("", True), ("gzip", False), ("identity, br", False), ("X", False)]
)
def test_only_what_is_not_encoded_can_be_looked_through(coding: str, readable: bool) -> None:
    assert is_readable([("Content-Encoding", coding)]) is readable
