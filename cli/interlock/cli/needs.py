"""What each role needs set before it may start.

None guesses a secret, none speaks gRPC in the clear beyond this machine, and no sidecar takes agents from beyond it,
unless the configuration says so. How Redis is reached is up to its URL.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path

from interlock.audit.settings import AuditSettings
from interlock.cli.configuration import Configuration, Settings, load
from interlock.cli.problems import ConfigurationError, Place, Problem
from interlock.cli.role import Role
from interlock.policy.credentials import looks_like_key
from interlock.policy.settings import EngineSettings
from interlock.proxy.settings import EngineLink, SidecarSettings
from interlock.store.settings import RedisSettings

Need = tuple[str, str]
"""A key, and what is the matter with it."""
Files = Mapping[str, Path | str | None]
"""Files that must be readable, by the keys that name them."""


def load_for(
    role: Role, file: Path | None = None, *, defaults: Settings | None = None, flags: Settings | None = None
) -> Configuration:
    """The configuration (see `configuration.load`) if this role can start with it.

    Raises ConfigurationError with all that is missing or unsafe, UnreadableFileError.
    """
    configuration = load(file, defaults=defaults, flags=flags)
    problems = [Problem(Place(), key, message) for key, message in NEEDS[role](configuration)]
    if problems:
        raise ConfigurationError(problems)
    return configuration


def is_loopback(host: str) -> bool:
    """Whether a host, given as in `host:port`, is this very machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _dev_needs(configuration: Configuration) -> Iterator[Need]:
    yield from _remote_agents(configuration.sidecar)
    yield from _sink_needs(configuration.audit)
    yield from _bootstrap_key_needs(configuration.engine)
    yield from _unreadable({"engine.master_key_file": configuration.engine.master_key_file})
    yield from _unreadable(_redis_files(configuration.redis))


def _engine_needs(configuration: Configuration) -> Iterator[Need]:
    engine = configuration.engine
    if configuration.redis.url is None:
        yield "redis.url", "not set, also by INTERLOCK_REDIS_URL; only `interlock dev` brings its own Redis"
    if engine.sidecar_token is None:
        yield "engine.sidecar_token", "not set; sidecars show it to prove that they are yours"
    if engine.master_key is None and engine.master_key_file is None:
        yield "engine.master_key", "neither it nor engine.master_key_file is set; it seals the secrets of tools"
    host, _, port = engine.listen.rpartition(":")
    if not host or not port.isdecimal():
        yield "engine.listen", "must be host:port"
    elif engine.tls is None and not engine.allow_plaintext and not is_loopback(host):
        yield "engine.tls", f"not set, but {engine.listen} is no loopback address; engine.allow_plaintext accepts that"
    yield from _bootstrap_key_needs(engine)
    if configuration.audit.exports and configuration.audit.in_engine:
        yield from _audit_needs(configuration.audit)
    yield from _unreadable({"engine.master_key_file": engine.master_key_file})
    yield from _unreadable(_redis_files(configuration.redis))
    if engine.tls is not None:
        yield from _unreadable({f"engine.tls.{name}": file for name, file in engine.tls})


def _exporter_needs(configuration: Configuration) -> Iterator[Need]:
    if configuration.redis.url is None:
        yield "redis.url", "not set, also by INTERLOCK_REDIS_URL"
    if not configuration.audit.exports:
        yield "audit", "no sink is named: audit.file, audit.http or audit.stdout"
    yield from _audit_needs(configuration.audit)
    yield from _unreadable(_redis_files(configuration.redis))


def _injector_needs(configuration: Configuration) -> Iterator[Need]:
    injector = configuration.injector
    if injector.tls is None:
        yield "injector.tls", "not set; Kubernetes asks by HTTPS only"
    else:
        yield from _unreadable({f"injector.tls.{name}": file for name, file in injector.tls})
    if injector.sidecar_file is None:
        yield "injector.sidecar_file", "not set; it says what is put into pods"
    yield from _unreadable({"injector.sidecar_file": injector.sidecar_file})


def _audit_needs(audit: AuditSettings) -> Iterator[Need]:
    if audit.signing_key_file is None:
        yield "audit.signing_key_file", "not set; `interlock audit new-key` makes a key that signs what is exported"
    yield from _sink_needs(audit)


def _sink_needs(audit: AuditSettings) -> Iterator[Need]:
    yield from _unreadable({"audit.signing_key_file": audit.signing_key_file})
    if audit.http is None:
        return
    yield from _unreadable({"audit.http.tls_ca_file": audit.http.tls_ca_file})
    if audit.http.in_the_clear:
        yield "audit.http.url", f"{audit.http.shown_url} is not encrypted; use https://, or accept it: allow_plaintext"


def _bootstrap_key_needs(engine: EngineSettings) -> Iterator[Need]:
    if engine.bootstrap_key is not None and not looks_like_key(engine.bootstrap_key.get_secret_value()):
        yield "engine.bootstrap_key", "is no key; one is once_live_ and 43 letters and digits"


def _sidecar_needs(configuration: Configuration) -> Iterator[Need]:
    yield from _remote_agents(configuration.sidecar)
    link = configuration.sidecar.engine
    if link.sidecar_token is None:
        yield "sidecar.engine.sidecar_token", "not set; it must be the engine's sidecar_token"
    if link.embedded:
        yield "sidecar.engine.target", "`embedded` is what `interlock dev` does; name an engine, grpcs://host:port"
    elif _in_the_clear(link):
        yield "sidecar.engine.target", f"{link.target} is not encrypted; use grpcs://, or accept it: allow_plaintext"
    if link.tls is not None:
        yield from _unreadable({f"sidecar.engine.tls.{name}": file for name, file in link.tls})


def _remote_agents(sidecar: SidecarSettings) -> Iterator[Need]:
    if sidecar.allow_remote_agents or is_loopback(sidecar.host):
        return
    keyless = ", and as its own agent without any key" if sidecar.agent_key else ""
    yield "sidecar.host", f"{sidecar.host} lets others than this machine call{keyless}; accept it: allow_remote_agents"


def _in_the_clear(link: EngineLink) -> bool:
    scheme, _, addresses = link.target.partition("://")
    hosts = [address.rpartition(":")[0] for address in addresses.split(",")]
    return scheme == "grpc" and not link.allow_plaintext and not all(is_loopback(host) for host in hosts)


def _redis_files(redis: RedisSettings) -> Files:
    names = ("tls_ca_file", "tls_cert_file", "tls_key_file")
    return {f"redis.{name}": getattr(redis, name) for name in names}


def _unreadable(files: Files) -> Iterator[Need]:
    for key, file in files.items():
        if file is None:
            continue
        try:
            Path(file).open("rb").close()
        except OSError as error:
            yield key, f"{file} cannot be read: {error.strerror}"


NEEDS = {
    Role.DEV: _dev_needs,
    Role.SIDECAR: _sidecar_needs,
    Role.ENGINE: _engine_needs,
    Role.EXPORTER: _exporter_needs,
    Role.INJECTOR: _injector_needs,
}
