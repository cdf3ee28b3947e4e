"""How alerts are raised and delivered, and what counts as an anomaly."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

MAX_RECIPIENTS = 10
MAX_SECRET = 1024
MIN_SECRET = 8

RECIPIENT = r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,189}$"
Recipient = Annotated[str, StringConstraints(max_length=254, pattern=RECIPIENT)]
"""A mailbox without a name, RFC 5321 4.1.2: what stands in a header and in an envelope alike."""


class WebhookSettings(BaseModel):
    """Where alerts of namespaces are posted that name no webhook of their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(max_length=2048, description="Where alerts are posted: http or https, as tools may be")
    secret: SecretStr = Field(
        min_length=MIN_SECRET,
        max_length=MAX_SECRET,
        description="Signs them (Standard Webhooks), text or whsec_BASE64; a secret",
    )


class SmtpSettings(BaseModel):
    """The mail server that alerts are handed to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1, description="Its name or address")
    port: int = Field(587, ge=1, le=65_535, description="Its port")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="starttls (refused if the server has none), tls from the first byte, or none"
    )
    username: str | None = Field(None, description="Log in with this name")
    password: SecretStr | None = Field(None, description="And this password; a secret")
    password_file: Path | None = Field(None, description="A file with it")
    tls_ca_file: Path | None = Field(None, description="CA certificates of the server; the usual ones by default")
    sender: Recipient = Field(description="From whom alerts come")
    recipients: list[Recipient] = Field(
        [], max_length=MAX_RECIPIENTS, description="To whom those of namespaces go that name nobody of their own"
    )
    timeout_ms: int = Field(15_000, ge=100, le=60_000, description="Time for one mail, ms")

    def current_password(self) -> str:
        """As the setting or the file has it now. Errors: OSError."""
        if self.password is not None:
            return self.password.get_secret_value()
        return self.password_file.read_text(encoding="utf-8").rstrip("\r\n") if self.password_file else ""

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        has_password = self.password is not None or self.password_file is not None
        if has_password != (self.username is not None):
            raise ValueError("username and password (or password_file) belong together")
        if has_password and self.security == "none":
            raise ValueError("a password is not sent in the clear: security must be starttls or tls")
        return self


class AnomalySettings(BaseModel):
    """What is out of the ordinary for an agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    refusals: int = Field(10, ge=2, le=10_000, description="So many refusals of one tool for one reason are an anomaly")
    refusals_window_s: int = Field(600, ge=60, le=3600, description="In so long, s; whole minutes")
    burst_factor: float = Field(10, ge=1.5, le=10_000, description="So many times the usual rate is a burst")
    burst_min_calls: int = Field(100, ge=2, le=10_000_000, description="But no fewer calls than these")
    burst_window_s: int = Field(300, ge=60, le=3600, description="In so long, s; whole minutes")
    burst_min_hours: int = Field(
        3, ge=0, le=168, description="Hours with calls, of the last 168, that an agent's usual rate is known from"
    )
    new_tool_after_calls: int = Field(
        50, ge=1, le=10_000_000, description="An agent with so many calls has a history: a tool new to it is an anomaly"
    )
    spend_window_s: int = Field(600, ge=60, le=3600, description="Spend is projected from so long, s; whole minutes")
    spend_min_percent: int = Field(
        10, ge=1, le=100, description="Of the day's budget must have gone in that time, in at least three calls"
    )
    quiet_s: int = Field(
        3600, ge=1, le=86_400, description="The same anomaly of an agent is not told again for so long, s"
    )
    risk_s: int = Field(3600, ge=0, le=604_800, description="It raises the risk_level of decisions for so long, s")


class AlertSettings(BaseModel):
    """Alerts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    webhook: WebhookSettings | None = Field(None, description="For namespaces that name no webhook of their own")
    smtp: SmtpSettings | None = Field(None, description="The mail server; without it no mail is sent")
    fold_s: int = Field(60, ge=1, le=3600, description="Alerts of one kind, agent and tool are told together, s")
    max_tries: int = Field(8, ge=1, le=20, description="Tries to deliver an alert before it is a dead letter")
    first_pause_ms: int = Field(
        5_000, ge=10, le=600_000, description="After the first try; then four times as long, ms"
    )
    last_pause_ms: int = Field(21_600_000, ge=10, le=86_400_000, description="But no longer than this, ms")
    webhook_timeout_ms: int = Field(10_000, ge=100, le=60_000, description="Time for one post, ms")
    lease_ms: int = Field(
        10_000, ge=500, le=600_000, description="An engine that watches and dies is replaced after it, ms"
    )
    anomalies: AnomalySettings = Field(default_factory=AnomalySettings, description="What is out of the ordinary")
