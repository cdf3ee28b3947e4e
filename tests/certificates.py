"""A certificate authority for tests, and what it vouches for."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = x509.SubjectAlternativeName(
    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))],
)


class Authority:
    """Signs certificates for loopback, and writes them and itself as PEM files."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(self._key, name, self._key, name, x509.BasicConstraints(ca=True, path_length=0))
        self.file = _written(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(key, name, self._key, self._name, LOOPBACK)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            _written(self._folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            _written(self._folder / f"{name}.key", private),
        )


def _certificate(
    key: ec.EllipticCurvePrivateKey,
    name: str,
    signed_by: ec.EllipticCurvePrivateKey,
    issuer: str,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .sign(signed_by, hashes.SHA256())
    )


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file
