"""How the injector runs."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class TlsFiles(BaseModel):
    """Certificate of the webhook's listener, PEM; looked at again at every handshake."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert_file: Path = Field(description="The certificate chain, for the name of the injector's Service")
    key_file: Path = Field(description="Its private key")


class InjectorSettings(BaseModel):
    """The webhook that puts sidecars into pods."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("0.0.0.0", description="Address of the webhook's listener: Kubernetes asks from outside")  # noqa: S104 - see there
    port: int = Field(8443, ge=0, le=65_535, description="Its port; 0 takes a free one")
    tls: TlsFiles | None = Field(None, description="Certificate of the webhook; Kubernetes asks by HTTPS only")
    sidecar_file: Path | None = Field(
        None, description="YAML with the sidecar's `container` and its `volumes`; read again when it changes"
    )
    admin_host: str = Field("127.0.0.1", description="Address of the admin listener: metrics and health")
    admin_port: int = Field(8406, ge=0, le=65_535, description="Its port; 0 takes a free one")
    drain_grace_ms: int = Field(
        5_000,
        ge=0,
        le=600_000,
        description="So long it goes on answering at shutdown, until Kubernetes asks another, ms",
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error")
