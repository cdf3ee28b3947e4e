"""Tools' own credentials: what is refused, what is kept, what is shown."""

import dataclasses
from typing import Any

import pytest

from interlock.governance.errors import InternalError, InvalidRequestError
from interlock.policy import tools, upstream
from interlock.policy.model import OAuth2, Tool
from interlock.policy.secrets import Keyring, generate_key, parse_keys
from interlock.policy.upstream import Given

TOOL = Tool(name="charge", scope_id="global", url="https://tools.example/charge")
OAUTH2 = OAuth2("https://login.example/token", "client-1", scope="charge")
OWNER = "acme/global/charge"
KEYRING = Keyring(parse_keys(generate_key()))


def put(given: Given | None, stored: Tool | None = None, keyring: Keyring = KEYRING) -> Tool:
    return upstream.with_credential(TOOL, given, stored, OWNER, keyring)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"token_url": "ftp://login.example/"}, "token_url"),
        ({"token_url": "https://user:pass@login.example/"}, "token_url"),
        ({"token_url": "https://169.254.169.254/token"}, "token_url"),
        ({"token_url": "https://127.0.0.1/token"}, "token_url"),
        ({"token_url": "http://login.example/token"}, "token_url"),
        ({"client_id": ""}, "client_id"),
        ({"client_id": "ä"}, "client_id"),
        ({"scope": "a\nb"}, "scope"),
        ({"audience": "a" * 1025}, "audience"),
        ({"header": "Host"}, "header"),
        ({"header": "Interlock-Agent"}, "header"),
        ({"scheme": "Bearer "}, "scheme"),
        ({"params": (("client_secret", "x"),)}, "params"),
        ({"params": (("grant_type", "password"),)}, "params"),
        ({"params": (("", "x"),)}, "params"),
        ({"params": tuple((f"p{n}", "x") for n in range(17))}, "params"),
    ],
)
def test_an_impossible_token_names_the_field(changes: dict[str, Any], field: str) -> None:
    given = Given(oauth2=dataclasses.replace(OAUTH2, **changes), client_secret="s")
    with pytest.raises(InvalidRequestError) as refused:
        tools.check(TOOL, tools.Secrets(credential=given), allow_loopback=False)
    assert refused.value.metadata == {"field": f"upstream_credential.{field}"}


@pytest.mark.parametrize("secret", ["", "a\r\nb", "ä", "x" * 4097])
def test_an_impossible_client_secret_is_refused(secret: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        tools.check(TOOL, tools.Secrets(credential=Given(oauth2=OAUTH2, client_secret=secret)), allow_loopback=False)
    assert refused.value.metadata == {"field": "upstream_credential.client_secret"}


def test_a_token_url_without_tls_is_for_loopback_and_for_who_says_so() -> None:
    loopback = Given(oauth2=dataclasses.replace(OAUTH2, token_url="http://127.0.0.1:9/token"), client_secret="s")
    tools.check(TOOL, tools.Secrets(credential=loopback), allow_loopback=True)
    meshed = Given(oauth2=dataclasses.replace(OAUTH2, token_url="http://login.mesh/token"), client_secret="s")
    tools.check(TOOL, tools.Secrets(credential=meshed), allow_loopback=False, allow_plaintext_tokens=True)


def test_a_client_secret_is_sealed_and_shown_as_a_mask() -> None:
    tool = put(Given(oauth2=OAUTH2, client_secret="a-client-secret-of-some-length"))
    assert upstream.opened(tool, OWNER, KEYRING) == "a-client-secret-of-some-length"
    assert tool.upstream_mask == "•••• ngth"
    assert "of-some" not in repr(tool)
    assert (tool.upstream_header, tool.upstream_value) == ("", None)


def test_a_client_secret_that_is_left_out_stays_for_the_same_client_and_endpoint_only() -> None:
    first = put(Given(oauth2=OAUTH2, client_secret="client-secret"))
    again = put(Given(oauth2=dataclasses.replace(OAUTH2, scope="refund")), first)
    assert again.upstream_oauth2 is not None
    assert again.upstream_oauth2.scope == "refund"
    assert upstream.opened(again, OWNER, KEYRING) == "client-secret"
    for changes in ({"token_url": "https://evil.example/token"}, {"client_id": "client-2"}):
        with pytest.raises(InvalidRequestError) as refused:
            put(Given(oauth2=dataclasses.replace(OAUTH2, **changes)), first)
        assert refused.value.metadata == {"field": "upstream_credential.client_secret"}


def test_without_a_stored_secret_one_is_needed() -> None:
    for stored in (None, put(Given("X-Key", "a header's value"))):
        with pytest.raises(InvalidRequestError, match="client secret is needed"):
            put(Given(oauth2=OAUTH2), stored)


def test_a_token_url_altered_in_redis_opens_no_secret() -> None:
    tool = put(Given(oauth2=OAUTH2, client_secret="client-secret"))
    assert tool.upstream_oauth2 is not None
    moved = dataclasses.replace(tool.upstream_oauth2, token_url="https://evil.example/token")
    with pytest.raises(InternalError):
        upstream.opened(dataclasses.replace(tool, upstream_oauth2=moved), OWNER, KEYRING)


def test_one_kind_of_credential_replaces_the_other_and_nothing_is_left_of_it() -> None:
    token = put(Given(oauth2=OAUTH2, client_secret="client-secret"))
    header = put(Given("X-Key", "the value of the header"), token)
    assert (header.upstream_header, header.upstream_oauth2) == ("X-Key", None)
    assert put(Given(oauth2=OAUTH2, client_secret="client-secret"), header).upstream_value is None
    removed = put(Given(), token)
    assert (removed.upstream_oauth2, removed.upstream_mask) == (None, "")


def test_a_client_secret_moves_under_the_current_master_key_with_the_next_put() -> None:
    old, new = generate_key(), generate_key()
    first = put(Given(oauth2=OAUTH2, client_secret="client-secret"), keyring=Keyring(parse_keys(old)))
    for given in (None, Given(oauth2=OAUTH2)):
        moved = put(given, first, Keyring(parse_keys(f"{new},{old}")))
        assert upstream.opened(moved, OWNER, Keyring(parse_keys(new))) == "client-secret"
