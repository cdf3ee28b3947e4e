"""How a sidecar runs."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from yarl import URL

KiB = 1024
MiB = 1024 * KiB

_STRICT = ConfigDict(frozen=True, extra="forbid")
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", re.IGNORECASE)


def _bare_host(host: str) -> str:
    if not _HOST.fullmatch(host):
        raise ValueError("must be a host name or [IPv6 address] without a port")
    return host.lower()


def _header_value(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("must be one line of printable ASCII without space around it")
    return secret


def _off(port: object) -> object:
    return None if port == "off" or port is False else port


BareHost = Annotated[str, AfterValidator(_bare_host)]
PortOrOff = Annotated[int | None, BeforeValidator(_off)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header_value)]
"""A secret that travels in a header: a line break in it would end every request with it."""


class TlsFiles(BaseModel):
    """Certificates of the channel to the engine, PEM."""

    model_config = _STRICT

    ca_file: Path | None = Field(None, description="Whom to trust; the system's authorities by default")
    cert_file: Path | None = Field(None, description="This sidecar's certificate chain (mTLS)")
    key_file: Path | None = Field(None, description="Its private key")

    @model_validator(mode="after")
    def _certificate_and_key_go_together(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return self


class EngineLink(BaseModel):
    """Where the governance engine is, and how long to wait for it."""

    model_config = _STRICT

    target: str = Field(
        "grpc://127.0.0.1:8402",
        description="grpc://host:port, grpcs://host:port, several as grpc://ip:port,ip:port (IPv4), or `embedded`: "
        "the engine runs in the same process",
        pattern=r"^(embedded|grpcs?://[^/?#,\s]+:\d{1,5}|grpcs?://[\d.]+:\d{1,5}(,[\d.]+:\d{1,5})+)$",
    )
    allow_plaintext: bool = Field(False, description="Use grpc:// beyond loopback, e.g. inside a service mesh")
    sidecar_token: HeaderSecret | None = Field(
        None, description="Shown to the engine with every call; the engine has it"
    )
    tls: TlsFiles | None = Field(None, description="Certificates for grpcs://")
    timeout_ms: int = Field(3_000, ge=10, le=60_000, description="Time for one Authorize, Renew or Settle, ms")
    repeats: int = Field(1, ge=0, le=10, description="How often a question whose answer was lost is asked again")
    breaker_failures: int = Field(3, ge=1, le=1_000, description="So many lost answers in a row, and calls are refused")
    breaker_open_ms: int = Field(250, ge=10, le=60_000, description="How long, until the next question is tried, ms")

    @property
    def embedded(self) -> bool:
        return self.target == "embedded"


def _otlp_url(url: str) -> str:
    try:
        parts = URL(url)
    except ValueError as error:
        raise ValueError("must be the URL of a collector, http:// or https://") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError("must be the URL of a collector, http:// or https://")
    if parts.user or parts.password:
        raise ValueError("must hold no password: set OTEL_EXPORTER_OTLP_HEADERS")
    return url


class TracesSettings(BaseModel):
    """Where traces go. What else there is to set, the OTEL_ variables of the OpenTelemetry SDK do."""

    model_config = _STRICT

    otlp_endpoint: Annotated[str, AfterValidator(_otlp_url)] = Field(
        description="A collector that takes OTLP over HTTP, e.g. http://127.0.0.1:4318; without a path, /v1/traces"
    )
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="So many of the calls are traced whose agent has not decided that itself"
    )
    arguments: bool = Field(False, description="Traces hold the calls' arguments")
    max_argument_bytes: int = Field(4 * KiB, ge=1, le=16 * KiB, description="So much of them, bytes")

    @property
    def traces_url(self) -> str:
        url = URL(self.otlp_endpoint)
        return str(url if url.path not in ("", "/") else url.with_path("/v1/traces"))


class RunWorkersSettings(BaseModel):
    """The workers of keyed runs in a sidecar."""

    model_config = _STRICT

    workers: int = Field(4, ge=0, le=256, description="So many runs at a time, of all namespaces; 0 does none")


class SidecarSettings(BaseModel):
    """One sidecar."""

    model_config = _STRICT

    host: str = Field("127.0.0.1", description="Address of the agent-facing listener")
    port: int = Field(8400, ge=0, le=65_535, description="Its port; 0 takes a free one")
    admin_host: str = Field("127.0.0.1", description="Address of the admin listener")
    admin_port: int = Field(8401, ge=0, le=65_535, description="Its port; 0 takes a free one")
    grpc_port: PortOrOff = Field(
        8405,
        ge=0,
        le=65_535,
        description="Where agents call gRPC tools, on the same address; 0 takes a free one, `off` none",
    )
    allowed_hosts: tuple[BareHost, ...] = Field(
        (), description="Values of Host that agents may use, beside localhost, 127.0.0.1 and [::1]; without a port"
    )
    max_body_bytes: int = Field(1 * MiB, ge=0, le=1024 * MiB, description="A larger request is refused, bytes")
    agent_key: HeaderSecret | None = Field(
        None, description="The key that calls to /tools without one are made with; a secret"
    )
    agent_id: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.@:-]{0,128}$",
        description="The agent that calls to /tools are made as which name none; the key must be good for it",
    )
    spool_dir: Path = Field(Path(".interlock/spool"), description="Folder for what the engine could not be told yet")
    open_max_age_s: int = Field(
        3_600,
        ge=0,
        le=86_400,
        description="So long after the engine last let such a call pass, a tool with on_governance_failure: open is "
        "called without it, s",
    )
    allow_remote_agents: bool = Field(False, description="Listen for agents on other addresses than loopback")
    allow_loopback_tools: bool = Field(False, description="Tools may be on loopback addresses")
    drain_grace_ms: int = Field(30_000, ge=0, le=600_000, description="Time for running calls at shutdown, ms")
    agent_stall_ms: int = Field(
        30_000,
        ge=10,
        le=600_000,
        description="An agent that sends nothing of a body, or takes nothing of its answer, for so long is left, ms",
    )
    token_timeout_ms: int = Field(
        5_000, ge=10, le=60_000, description="Time for a token endpoint of a tool to answer, ms"
    )
    request_head_ms: int = Field(
        10_000, ge=10, le=600_000, description="Time for the head of a request, from the answer before it, ms"
    )
    max_connections: int = Field(
        1_024,
        ge=1,
        le=1_000_000,
        description="Agents' connections at a time; fewer where the process may open few files",
    )
    engine: EngineLink = Field(default_factory=EngineLink, description="The governance engine")
    runs: RunWorkersSettings = Field(default_factory=RunWorkersSettings, description="Keyed runs that are done here")
    traces: TracesSettings | None = Field(None, description="Traces by OpenTelemetry; none without this")
    duplicates_conflict: bool = Field(
        False, description="A check-lock of a key that is locked is answered 409 instead of 200"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe record logged")
