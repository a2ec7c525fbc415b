"""Certificates made on the spot."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass
class Certificates:
    folder: Path
    ca_file: Path
    _ca: x509.Certificate
    _ca_key: ec.EllipticCurvePrivateKey

    def server_context(
        self, host: str, *, valid_for: datetime.timedelta = _DAY, clients: bool = False
    ) -> ssl.SSLContext:
        """For a server whose certificate, from our authority, is made for a host.

        :param valid_for: from now on; less than nothing makes one that is over.
        :param clients: it asks for a client's certificate, from the same authority.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        certificate = (
            _builder(host, self._ca.subject, key.public_key(), valid_for)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )
        path = self.folder / f"{host}-{key.public_key().public_numbers().x:x}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + _pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if clients:
            context.load_verify_locations(self.ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_files(self, name: str) -> tuple[Path, Path]:
        """A client's certificate from our authority, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _builder(name, self._ca.subject, key.public_key()).sign(self._ca_key, hashes.SHA256())
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(_pem(key))
        return files


def make_certificates(folder: Path) -> Certificates:
    """An authority of our own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    ca = (
        _builder("Test authority", name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    return Certificates(folder, ca_file, ca, key)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, valid_for: datetime.timedelta = _DAY
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + valid_for)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
