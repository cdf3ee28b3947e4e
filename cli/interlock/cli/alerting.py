"""Has an engine watch for what is worth telling, and tell it: with the HTTP and SMTP that it does not know itself."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from interlock.policy.alert_settings import AlertSettings, SmtpSettings
from interlock.policy.engine import Engine
from interlock.proxy.alert_courier import AlertCourier, MailServer
from interlock.proxy.destinations import Destinations
from interlock.proxy.metrics import Metrics
from interlock.proxy.upstream import Upstream


@asynccontextmanager
async def alerting(
    engine: Engine, settings: AlertSettings, destinations: Destinations, metrics: Metrics
) -> AsyncIterator[None]:
    """While the context is open."""
    async with AsyncExitStack() as stack:
        upstream = Upstream(destinations)
        await upstream.start()
        stack.push_async_callback(upstream.close)
        server = _server(settings.smtp) if settings.smtp is not None else None
        timeout_s = settings.webhook_timeout_ms / 1000
        courier = AlertCourier(upstream, destinations, post_timeout_s=timeout_s, server=server)
        watch = engine.alerting(courier, metrics)
        stack.push_async_callback(watch.close)
        watch.start()
        yield


def _server(smtp: SmtpSettings) -> MailServer:
    return MailServer(
        host=smtp.host,
        port=smtp.port,
        security=smtp.security,
        sender=smtp.sender,
        timeout_s=smtp.timeout_ms / 1000,
        username=smtp.username,
        password=smtp.current_password,
        tls_ca_file=smtp.tls_ca_file,
    )
