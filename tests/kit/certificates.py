"""Certificates of the tests' own: an authority, and what it signs, right or wrong in one way."""

import datetime as dt
import ipaddress
import os
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = dt.timedelta(days=1)
NAMES = ("localhost", "127.0.0.1", "::1")


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    """One for the whole run: making it takes a while."""
    return rsa.generate_private_key(65537, 2048)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(key: Any, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    form = serialization.PrivateFormat.PKCS8
    text: bytes = key.private_bytes(serialization.Encoding.PEM, form, encryption)
    return text


@dataclass(frozen=True)
class Files:
    """`certificate`: with its chain. `authority`: what a client trusts."""

    certificate: Path
    key: Path
    authority: Path

    @property
    def settings(self) -> dict[str, object]:
        return {
            "listen.tls_certificate": str(self.certificate),
            "listen.tls_key": str(self.key),
        }

    def client(self, *, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


class Authority:
    """Signs. Its own certificate is `ca.pem` in the directory."""

    def __init__(self, directory: Path, name: str = "the tests") -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = directory / "ca.pem"
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def texts(
        self,
        names: tuple[str, ...] = NAMES,
        *,
        is_rsa: bool = False,
        begins: float = -1,
        ends: float = 365,
        is_for_clients: bool = False,
    ) -> tuple[bytes, bytes]:
        """A certificate and its key, as PEM. `begins`, `ends`: days from now."""
        key: Any = rsa_key() if is_rsa else ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if is_for_clients else None
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name("kdaemon"))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins * DAY)
            .not_valid_after(now + ends * DAY)
            .add_extension(
                x509.ExtendedKeyUsage([usage or ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names:
            found = x509.SubjectAlternativeName([_san(name) for name in names])
            builder = builder.add_extension(found, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), pem(key)

    def issue(self, name: str = "tls", **how: Any) -> Files:
        """The same, as files `NAME.crt` and `NAME.key`."""
        return write(self.directory, name, *self.texts(**how), self.path)


def write(directory: Path, name: str, certificate: bytes, key: bytes, authority: Path) -> Files:
    files = Files(directory / f"{name}.crt", directory / f"{name}.key", authority)
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(key)
    os.chmod(files.key, 0o600)
    return files


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
