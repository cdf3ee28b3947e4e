import httpx
import pytest

from interlock.cli.client import FAILED, NOT_FOUND, USAGE, ApiError, api_key, base_url, decoded, explained


@pytest.mark.parametrize(
    "given",
    ["http://127.0.0.1:8400", "http://127.0.0.1:8400/", "http://127.0.0.1:8400/v1", " http://127.0.0.1:8400/v1/ "],
)
def test_the_address_works_with_and_without_v1(given: str) -> None:
    assert base_url(given) == "http://127.0.0.1:8400/v1/"


def test_a_path_before_v1_stays() -> None:
    assert base_url("https://gate.example/interlock") == "https://gate.example/interlock/v1/"


@pytest.mark.parametrize(
    "given", ["127.0.0.1:8400", "http://[bad", "http://a:99999", "ftp://host", "http://", "localhost"]
)
def test_an_address_that_is_no_url_is_wrong_usage(given: str) -> None:
    with pytest.raises(ApiError) as raised:
        base_url(given)
    assert raised.value.exit_code == USAGE


@pytest.mark.parametrize("given", ["", "  ", "schlüssel", "a\nb"])
def test_no_key_or_none_that_a_header_could_carry_is_wrong_usage(given: str) -> None:
    with pytest.raises(ApiError) as raised:
        api_key(given)
    assert raised.value.exit_code == USAGE
    assert not given.strip() or given not in raised.value.message


@pytest.mark.parametrize(
    ("status", "body", "exit_code"),
    [
        (403, {"detail": "Invalid API key"}, FAILED),
        (404, {"detail": {"error": "tool_not_found", "message": "no such tool"}}, NOT_FOUND),
        (404, {"detail": "Not Found"}, FAILED),  # the address is wrong, not the name
        (422, {"detail": [{"type": "x", "loc": ["body", "url"], "msg": "no", "input": None}]}, FAILED),
        (503, {"detail": {"error": "governance_unavailable", "message": "gone"}}, FAILED),
        (502, ["odd"], FAILED),
    ],
)
def test_an_answer_that_is_not_good_has_an_exit_code(status: int, body: object, exit_code: int) -> None:
    with pytest.raises(ApiError) as raised:
        decoded(httpx.Response(status, json=body))
    assert raised.value.exit_code == exit_code


def test_an_answer_without_json_is_nobodys_we_know() -> None:
    with pytest.raises(ApiError, match="HTTP 200 without JSON"):
        decoded(httpx.Response(200, text="<html>"))


@pytest.mark.parametrize(
    ("detail", "line"),
    [
        ("Invalid API key", "Invalid API key (HTTP 403)"),
        ({"error": "permission_denied", "message": "not yours"}, "not yours (permission_denied)"),
        (
            [{"loc": ["body", "name"], "msg": "no"}, {"loc": ["body", "pricing_rules", 0], "msg": "neither"}],
            "body.name: no\nbody.pricing_rules.0: neither",
        ),
    ],
)
def test_an_error_is_told_in_plain_lines(detail: object, line: str) -> None:
    assert explained(422 if isinstance(detail, list) else 403, detail) == line
