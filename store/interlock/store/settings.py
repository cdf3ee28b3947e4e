"""How to reach Redis."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from interlock.store.addresses import Address, address_of

OLDEST = (6, 2)
"""The first version whose scripting and streams the Lua files rely on."""


def _redis_url(url: SecretStr) -> SecretStr:
    address_of(url.get_secret_value())
    return url


class RedisSettings(BaseModel):
    """One Redis, one that sentinels watch, or a cluster. Without a URL, `interlock dev` starts its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = Field(
        None,
        description="redis://, rediss:// (TLS) or unix:// with user, password and database; "
        "redis+sentinel://HOST,HOST/SERVICE/DB; redis+cluster://HOST,HOST; a secret",
    )
    timeout_ms: int = Field(1000, ge=10, le=60_000, description="Time for one round trip, ms")
    connect_timeout_ms: int = Field(500, ge=10, le=60_000, description="Time to connect, ms")
    wait_replicas: int = Field(
        0, ge=0, le=100, description="Nothing counts before so many replicas have it (WAIT); 0: the master alone"
    )
    wait_timeout_ms: int = Field(200, ge=1, le=60_000, description="Time they have for it, ms; below timeout_ms")
    tls_ca_file: str | None = Field(None, description="CA certificates for rediss://; the system's by default")
    tls_cert_file: str | None = Field(None, description="Client certificate for rediss://")
    tls_key_file: str | None = Field(None, description="Key of the client certificate")

    @model_validator(mode="after")
    def _replicas_answer_in_time(self) -> Self:
        if self.wait_replicas and self.wait_timeout_ms >= self.timeout_ms:
            raise ValueError("wait_timeout_ms must be less than timeout_ms: else Redis seems to hang")
        return self

    @property
    def address(self) -> Address:
        """What the URL says. Raises ValueError if there is none."""
        if self.url is None:
            raise ValueError("redis.url is not set")
        return address_of(self.url.get_secret_value())
