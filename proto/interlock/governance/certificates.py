"""A listener's certificate, read again when its files change, so that rotating it needs no restart.

Kubelet swaps a symbolic link, cert-manager's CSI driver and people replace files one after the other. So the files are
looked at whenever somebody needs them (a handshake, a scrape), and a key that does not fit its certificate, or a file
that is only half written, is never taken up: what was good before is used on.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

Stamp = tuple[tuple[int, int, int, int], ...]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a listener shows, PEM, and whom it trusts. `expires_at` is unix time, of the first to end in the chain."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    expires_at: float

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """The same as gRPC takes it."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.client_ca)


class Certificates:
    """Keeps what the files last held that could be used. Safe to use from several threads.

    `failed` is called once for each state of the files that cannot be used.
    Errors of the first reading: OSError, or ValueError that says which file is wrong.
    """

    def __init__(
        self, cert_file: Path, key_file: Path, client_ca_file: Path | None, failed: Callable[[], None] = lambda: None
    ) -> None:
        self._cert_file, self._key_file, self._client_ca_file = cert_file, key_file, client_ca_file
        self._failed = failed
        self._lock = threading.Lock()
        self._refused: Stamp | None = None
        self._stamp = self._look()
        self._shown = self._read()

    def current(self) -> Shown:
        """What to show from now on."""
        with self._lock:
            self._renew()
            return self._shown

    def _renew(self) -> None:
        stamp: Stamp = ()  # of files that cannot even be looked at
        try:
            stamp = self._look()
            if stamp == self._stamp:
                self._refused = None
                return
            self._shown, self._stamp, self._refused = self._read(), stamp, None
        except (OSError, ValueError) as error:
            self._refuse(stamp, error)
        else:
            log.info("certificate.renewed", file=str(self._cert_file), expires_at=self._shown.expires_at)

    def _refuse(self, stamp: Stamp, error: Exception) -> None:
        if stamp != self._refused:
            self._refused = stamp
            self._failed()
            log.warning("certificate.not_taken", file=str(self._cert_file), error=str(error))

    def _look(self) -> Stamp:
        files = (file for file in (self._cert_file, self._key_file, self._client_ca_file) if file is not None)
        states = (file.stat() for file in files)
        return tuple((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns) for state in states)

    def _read(self) -> Shown:
        chain, key = self._cert_file.read_bytes(), self._key_file.read_bytes()
        client_ca = self._client_ca_file.read_bytes() if self._client_ca_file else None
        certificates = _certificates(self._cert_file, chain)
        if self._client_ca_file is not None and client_ca is not None:
            _certificates(self._client_ca_file, client_ca)
        if _public(certificates[0]) != _public_of_key(self._key_file, key):
            raise ValueError(f"{self._cert_file} with {self._key_file}: the key is not the certificate's")
        expires_at = min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
        return Shown(chain, key, client_ca, expires_at)


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that each new connection's handshake takes afresh; connections that there are live on.

    Clients must show a certificate if the files name a CA. Source: gRPC proposal L6 (certificate reloading).
    """
    first = certificates.current()
    told = first

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal told
        now = certificates.current()
        if now is told:
            return None
        told = now
        return now.configuration()

    return grpc.dynamic_ssl_server_credentials(
        first.configuration(),
        fetch,  # type: ignore[arg-type]  # the stubs forget None, which gRPC documents: no change
        require_client_authentication=first.client_ca is not None,
    )


def _certificates(file: Path, pem: bytes) -> list[x509.Certificate]:
    if pem.count(b"-----BEGIN ") != pem.count(b"-----END "):
        raise ValueError(f"{file}: cut off")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ValueError(f"{file}: not certificates in PEM") from error


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_of_key(file: Path, pem: bytes) -> bytes:
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
        raise ValueError(f"{file}: not a private key in PEM without a password") from error
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
