"""How to reach Redis."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

OLDEST = (6, 2)
"""The first version whose scripting and streams the Lua files rely on."""


def _redis_url(url: SecretStr) -> SecretStr:
    parts = urlsplit(url.get_secret_value())
    try:
        place = parts.path if parts.scheme == "unix" else parts.port != 0 and parts.hostname
    except ValueError:  # its text would show the part of a password that was taken for a port
        place = ""
    if parts.scheme not in {"redis", "rediss", "unix"} or not place:
        raise ValueError("must be redis://HOST, rediss://HOST or unix:///PATH")
    return url


class RedisSettings(BaseModel):
    """One Redis. Without a URL, `interlock dev` starts its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = Field(
        None, description="redis://, rediss:// (TLS) or unix:// with user, password and database; a secret"
    )
    timeout_ms: int = Field(1000, ge=10, le=60_000, description="Time for one round trip, ms")
    connect_timeout_ms: int = Field(500, ge=10, le=60_000, description="Time to connect, ms")
    tls_ca_file: str | None = Field(None, description="CA certificates for rediss://; the system's by default")
    tls_cert_file: str | None = Field(None, description="Client certificate for rediss://")
    tls_key_file: str | None = Field(None, description="Key of the client certificate")
