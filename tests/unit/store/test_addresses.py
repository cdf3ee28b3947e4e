"""What a URL of Redis says, and what is said of one that is wrong."""

import re

import pytest
from pydantic import SecretStr, ValidationError

from interlock.store.addresses import FORMS, Address, Kind, Node, address_of
from interlock.store.settings import RedisSettings

SECRET = "hunter2"
A, B = Node("a.example", 1), Node("b.example", 2)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://a.example:1/3", Address(Kind.ONE, (A,), database=3)),
        ("rediss://u:p%40q@a.example", Address(Kind.ONE, (Node("a.example", 6379),), True, "u", "p@q")),
        ("unix:///run/redis.sock?db=2", Address(Kind.ONE, (Node("localhost", 6379, "/run/redis.sock"),), database=2)),
        ("redis+sentinel://a.example:1,b.example:2/main", Address(Kind.SENTINELS, (A, B), service="main")),
        (
            "rediss+sentinel://u:p%2Cq@a.example:1,[::1]/main/5?sentinel_username=s&sentinel_password=t%26",
            Address(Kind.SENTINELS, (A, Node("::1", 26379)), True, "u", "p,q", 5, "main", "s", "t&"),
        ),
        ("redis+cluster://a.example:1,b.example:2", Address(Kind.CLUSTER, (A, B))),
        ("rediss+cluster://:p@a.example/0", Address(Kind.CLUSTER, (Node("a.example", 6379),), True, "", "p")),
    ],
)
def test_every_form_says_where_redis_is(url: str, address: Address) -> None:
    assert address_of(url) == address


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://a.example", FORMS),
        ("redis://", FORMS),
        (f"redis://a.example:{SECRET}", FORMS),
        (f"redis+sentinel://a.example:{SECRET}/main", FORMS),
        ("redis+elsewhere://a.example", FORMS),
        ("unix+cluster:///run/redis.sock", FORMS),
        (f"redis+sentinel://:{SECRET}@a.example", "must name the service"),
        (f"redis+sentinel://:{SECRET}@a.example/main/one", "must end with the number of a database"),
        (f"redis+sentinel://a.example/main?password={SECRET}", "knows no option password in a sentinel URL"),
        (f"redis+sentinel://:{SECRET}@a.example,,b.example/main", "must name hosts"),
        ("redis+cluster://", "must name hosts"),
        ("redis+cluster://a.example:0", "must name hosts"),
        (f"redis+cluster://:{SECRET}@a.example/1", "must name no database but 0"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_and_nothing_of_it_repeated(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as wrong:
        address_of(url)
    assert SECRET not in str(wrong.value)


def test_a_password_is_not_shown() -> None:
    assert SECRET not in repr(address_of(f"redis+sentinel://:{SECRET}@a/m?sentinel_password={SECRET}"))


def test_replicas_must_answer_before_redis_seems_to_hang() -> None:
    url = SecretStr("redis://a.example")
    with pytest.raises(ValidationError, match="wait_timeout_ms must be less than timeout_ms"):
        RedisSettings(url=url, wait_replicas=1, wait_timeout_ms=1000)
    assert RedisSettings(url=url, wait_timeout_ms=1000).wait_replicas == 0
