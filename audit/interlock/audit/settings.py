"""How the audit trail is exported."""

from base64 import b64decode
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from interlock.policy.model import NO_EXPORT

MiB = 1_048_576
WHSEC = "whsec_"


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.fragment:
        raise ValueError("must be http(s)://HOST without user info or fragment")
    return url


def _header_value(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("must be printable ASCII without space")
    return secret


def _webhook_secret(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if value.startswith(WHSEC):
        try:
            b64decode(value.removeprefix(WHSEC), validate=True)
        except ValueError:
            raise ValueError("what follows whsec_ must be base64") from None
    return secret


class FileSettings(BaseModel):
    """Files of one event a line, in a folder that is the exporter's alone. None of them is ever deleted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(description="Where the files are; made if it is missing, readable to its owner only")
    rotate_bytes: int = Field(
        64 * MiB, ge=4096, description="A file that would grow beyond it is followed by a new one"
    )
    rotate_s: int = Field(86_400, ge=1, description="So is one that is so old, s")


class HttpSettings(BaseModel):
    """A receiver of batches: POST with `application/cloudevents-batch+json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_http_url)] = Field(description="Where batches are posted")
    allow_plaintext: bool = Field(False, description="Post without TLS to another address than loopback")
    bearer_token: Annotated[SecretStr, AfterValidator(_header_value)] | None = Field(
        None, description="Sent as Authorization: Bearer; a secret"
    )
    hmac_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = Field(
        None, min_length=8, description="Signs each batch as Standard Webhooks does; a secret, as text or whsec_BASE64"
    )
    batch_max_events: int = Field(500, ge=1, le=10_000, description="Events in one request")
    timeout_ms: int = Field(10_000, ge=100, le=300_000, description="Time for one request, ms")
    tls_ca_file: Path | None = Field(None, description="CA certificates of the receiver; the usual ones by default")

    @property
    def shown_url(self) -> str:
        """What logs may hold of the URL: a query may be a secret."""
        return self.url.partition("?")[0]

    @property
    def in_the_clear(self) -> bool:
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "") and not self.allow_plaintext


class AuditSettings(BaseModel):
    """The exporter of the audit trail, off unless a sink is named. Engines and exporters need the same section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stdout: bool = Field(False, description="Write events to standard output")
    file: FileSettings | None = Field(None, description="Write events to files")
    http: HttpSettings | None = Field(None, description="Post events to a receiver")
    signing_key_file: Path | None = Field(
        None, description="The Ed25519 key that signs heads, PEM; `interlock audit new-key` makes one"
    )
    head_every_events: int = Field(1000, ge=1, description="An agent's chain is signed after so many events")
    head_every_s: float = Field(10, ge=0.1, description="And so long after an event that is not signed yet, s")
    backlog_cap: int = Field(
        100_000, ge=100, description="With so many events of an agent not exported, its calls are refused"
    )
    in_engine: bool = Field(True, description="Engines and `interlock dev` export, too; one process at a time does")
    sweep_s: float = Field(60, ge=1, description="All trails are looked through so often for what no hint told of, s")
    lease_ms: int = Field(10_000, ge=500, le=600_000, description="An exporter that dies is replaced after it, ms")
    admin_host: str = Field("127.0.0.1", description="Address of the exporter's admin listener: metrics and health")
    admin_port: int = Field(8404, ge=0, le=65_535, description="Its port; 0 takes a free one")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe record logged")

    @property
    def exports(self) -> bool:
        return bool(self.sinks)

    @property
    def sinks(self) -> tuple[str, ...]:
        """The names under which Redis knows how far each has got."""
        named = {"stdout": self.stdout, "file": self.file, "http": self.http}
        return tuple(name for name, sink in named.items() if sink)

    @property
    def cap(self) -> int:
        """What an engine holds agents to; -1 if nothing is exported."""
        return self.backlog_cap if self.exports else NO_EXPORT


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
