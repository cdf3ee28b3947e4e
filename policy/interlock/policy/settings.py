"""How the governance engine runs."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from interlock.policy.alert_settings import AlertSettings

DAY_S = 86_400
MAX_COUNT = 1_000_000_000
UNLIMITED = "unlimited"

PlanName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,63}$")]
Feature = Literal[
    "budgets",
    "blocklist",
    "per_tool_limits",
    "logs",
    "metrics",
    "allowlist",
    "kill_switch",
    "anomaly_detection",
]


def _metadata_value(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("must be one line of printable ASCII without space around it")
    return secret


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str | Path) else value


class TlsFiles(BaseModel):
    """Certificates of the gRPC listener, PEM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert_file: Path = Field(description="The engine's certificate chain")
    key_file: Path = Field(description="Its private key")
    client_ca_file: Path | None = Field(None, description="Clients must show a certificate of this CA (mTLS)")


class PlanSettings(BaseModel):
    """What a namespace on this plan may use. What is left out is not limited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: int | None = Field(None, ge=0, le=MAX_COUNT, description="Registered tools")
    runs_per_month: int | None = Field(
        None, ge=0, le=MAX_COUNT, description="Calls let through, and leases and keyed runs acquired, in a UTC month"
    )
    check_locks_per_month: int | None = Field(None, ge=0, le=MAX_COUNT, description="Check-locks that lock, likewise")
    requests_per_minute: int | None = Field(None, ge=1, le=MAX_COUNT, description="Requests in any 60 s, of all keys")
    default_ttl_s: int = Field(
        DAY_S, ge=1, le=30 * DAY_S, description="Of replays, locks and leases that do not say how long, s"
    )
    max_ttl_s: int = Field(30 * DAY_S, ge=1, le=30 * DAY_S, description="And at most, s; longer ones are cut to it")
    features: frozenset[Feature] | None = Field(None, description="What may be used; left out, everything")

    @model_validator(mode="after")
    def _default_within_maximum(self) -> Self:
        if self.default_ttl_s > self.max_ttl_s:
            raise ValueError("default_ttl_s must not be over max_ttl_s")
        return self


class RunsSettings(BaseModel):
    """How keyed runs are handed to workers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease_ms: int = Field(
        10_000, ge=500, le=600_000, description="A worker not heard of for so long is replaced on its run, ms"
    )
    max_workers_lost: int = Field(
        5, ge=1, le=100, description="A run fails as worker_lost after so many of them without an action done"
    )


class EngineSettings(BaseModel):
    """One governance engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str = Field("127.0.0.1:8402", description="host:port of the gRPC listener")
    tls: TlsFiles | None = Field(None, description="TLS of the listener; without it only loopback is allowed")
    allow_plaintext: bool = Field(False, description="Listen without TLS on other addresses than loopback")
    admin_host: str = Field("127.0.0.1", description="Address of the admin listener: metrics and health")
    admin_port: int = Field(8403, ge=0, le=65_535, description="Its port; 0 takes a free one")
    sidecar_token: Annotated[SecretStr, AfterValidator(_metadata_value)] | None = Field(
        None,
        min_length=16,
        description="Shared with the sidecars: who shows it may authorize, settle and resolve tools",
    )
    default_policy: Literal["allow", "deny"] = Field("deny", description="For agents without a policy of their own")
    plans: dict[PlanName, PlanSettings] = Field(
        default_factory=dict, description="What namespaces may use, by the plan they are on; unlimited is always there"
    )
    default_plan: str = Field(UNLIMITED, description="The plan of namespaces that were given none")
    runs: RunsSettings = Field(default_factory=RunsSettings, description="Keyed runs")
    allow_loopback_tools: bool = Field(False, description="Tools may be registered on loopback addresses")
    allow_plaintext_token_urls: bool = Field(
        False, description="Token URLs may be http:// beyond loopback, e.g. inside a service mesh"
    )
    alerts: AlertSettings = Field(default_factory=AlertSettings, description="Alerts, and what is an anomaly")
    master_key: SecretStr | None = Field(
        None, description="ID:BASE64 of 32 bytes, comma-separated for a rotation, current first; seals tool secrets"
    )
    master_key_file: Path | None = Field(None, description="A file with the same, one a line")
    manifests: Annotated[list[Path], BeforeValidator(_one_or_more)] = Field(
        [], description="Files of tools and policies, or folders of them, that are applied whenever they change"
    )
    bootstrap_key: SecretStr | None = Field(None, description="The first admin key; created once, never resurrected")
    connection_age_ms: int = Field(
        600_000,
        ge=1_000,
        le=86_400_000,
        description="After so long sidecars are asked to connect anew, so that they spread over new engines, ms",
    )
    drain_grace_ms: int = Field(30_000, ge=0, le=600_000, description="Time for running requests at shutdown, ms")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe record logged")

    @model_validator(mode="after")
    def _default_plan_is_known(self) -> Self:
        if self.default_plan != UNLIMITED and self.default_plan not in self.plans:
            raise ValueError(f"default_plan names {self.default_plan}, which plans does not hold")
        return self
