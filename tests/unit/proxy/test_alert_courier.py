"""Mail to real servers: over TLS that is trusted, with logins that never go in clear, and what is said of failures."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from interlock.governance.letters import Mail, Sent
from interlock.proxy.alert_courier import AlertCourier, MailServer
from interlock.proxy.destinations import Destinations
from interlock.proxy.upstream import Upstream
from tests import alert_receiver
from tests.certificates import Authority

LOGIN = ("interlock", "the password")
MAIL = Mail("alert_1", ("ops@example.com", "boss@example.com"), "a tool fails", {"tool": "charge", "agent": "shopper"})
SECURED = pytest.mark.parametrize("security", ["starttls", "tls"])

# Of aiosmtpd, which knows of no TLS that was there from the first byte.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@contextmanager
def receiving(security: str, authority: Authority, **options: Any) -> Iterator[alert_receiver.MailServer]:
    """A mail server that takes mail as `security` says."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("mail"))
    secured: dict[str, dict[str, Any]] = {
        "starttls": {"tls_context": context, "require_starttls": True},
        "tls": {"ssl_context": context, "auth_require_tls": False},
        "none": {},
    }
    with alert_receiver.MailServer(**options, **secured[security]) as server:
        yield server


def courier(upstream: Upstream, port: int, security: str, **changes: Any) -> AlertCourier:
    told: dict[str, Any] = {"host": "127.0.0.1", "sender": "interlock@example.com", "timeout_s": 10, **changes}
    destinations = Destinations(allow_loopback=True)
    server = MailServer(port=port, security=security, **told)
    return AlertCourier(upstream, destinations, post_timeout_s=1, server=server)


def with_login(password: str = LOGIN[1]) -> dict[str, Any]:
    return {"username": LOGIN[0], "password": lambda: password}


@SECURED
async def test_mail_is_handed_over_with_a_login_and_under_the_alerts_id(
    upstream: Upstream, authority: Authority, security: str
) -> None:
    with receiving(security, authority, login=LOGIN) as server:
        sender = courier(upstream, server.port, security, tls_ca_file=authority.file, **with_login())
        assert await sender.mail(MAIL) == Sent()
    [mail] = server.mails
    assert (server.logins, server.recipients) == ([LOGIN[0]], [list(MAIL.recipients)])
    assert (mail["Message-ID"], mail["Subject"]) == ("<alert_1@example.com>", MAIL.subject)
    assert "shopper" in str(mail.get_payload())


@SECURED
async def test_with_a_wrong_password_nothing_is_sent_and_it_is_tried_again(
    upstream: Upstream, authority: Authority, security: str
) -> None:
    with receiving(security, authority, login=LOGIN) as server:
        sender = courier(upstream, server.port, security, tls_ca_file=authority.file, **with_login("wrong"))
        assert await sender.mail(MAIL) == Sent("SMTPAuthenticationError 535")
    assert server.mails == []


@SECURED
async def test_a_server_that_is_not_trusted_is_told_nothing(
    upstream: Upstream, authority: Authority, security: str, tmp_path: Path
) -> None:
    with receiving(security, authority, login=LOGIN) as server:
        stranger = Authority(tmp_path, "stranger").file
        sent = await courier(upstream, server.port, security, tls_ca_file=stranger, **with_login()).mail(MAIL)
    assert (sent.gone, bool(sent.problem)) == (False, True)
    assert (server.logins, server.mails) == ([], [])


async def test_a_login_does_not_go_to_a_server_that_has_no_starttls(upstream: Upstream, authority: Authority) -> None:
    with receiving("none", authority) as server:
        sender = courier(upstream, server.port, "starttls", tls_ca_file=authority.file, **with_login())
        sent = await sender.mail(MAIL)
    assert (sent.gone, bool(sent.problem)) == (False, True)
    assert (server.logins, server.mails) == ([], [])


async def test_a_server_that_refuses_or_is_away_is_tried_again(upstream: Upstream, authority: Authority) -> None:
    with receiving("none", authority) as server:
        sender = courier(upstream, server.port, "none")
        server.refuses = "451 not now"
        assert await sender.mail(MAIL) == Sent("SMTPDataError 451")
        server.refuses = ""
        assert await sender.mail(MAIL) == Sent()
    assert await sender.mail(MAIL) == Sent("SMTPConnectError")


async def test_a_password_that_has_changed_is_read_anew(upstream: Upstream, authority: Authority) -> None:
    with receiving("starttls", authority, login=LOGIN) as server:
        passwords = iter(["an old one", LOGIN[1]])
        login = {"username": LOGIN[0], "password": lambda: next(passwords)}
        sender = courier(upstream, server.port, "starttls", tls_ca_file=authority.file, **login)
        assert [bool((await sender.mail(MAIL)).problem) for _ in range(2)] == [True, False]
