"""How to reach Redis."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr

OLDEST = (6, 2)
"""The first version whose scripting and streams the Lua files rely on."""


class RedisSettings(BaseModel):
    """One Redis. Without a URL, `interlock dev` starts its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: SecretStr | None = Field(
        None, description="redis://, rediss:// (TLS) or unix:// with user, password and database; a secret"
    )
    timeout_ms: int = Field(1000, ge=10, le=60_000, description="Time for one round trip, ms")
    connect_timeout_ms: int = Field(500, ge=10, le=60_000, description="Time to connect, ms")
    tls_ca_file: str | None = Field(None, description="CA certificates for rediss://; the system's by default")
    tls_cert_file: str | None = Field(None, description="Client certificate for rediss://")
    tls_key_file: str | None = Field(None, description="Key of the client certificate")
