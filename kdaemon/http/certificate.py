"""Reads a listener's certificate and key from their files, and says in words what is wrong with
them.

Knows files and TLS. Must not know a listener. `kdaemon check` uses it, too. Invariants: a pair is
used only after a handshake with itself has succeeded, so that it works for clients. The words name
the setting, the file and the remedy, and show nothing of a key.
Where it sits: renewal.py reads a pair here at the start, and again when its files change.
"""

import os
import pwd
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdaemon.base.errors import TlsError
from kdaemon.base.text import printable
from kdaemon.http.handshakes import ALPN

FILE_BYTES_MAX = 1024 * 1024  # bytes of one file; a chain has 10 KiB. Ours, 2026-11-28
# Seconds before a certificate ends; by then its renewal must have failed. Ours, 2026-11-28.
SOON_S = 14 * 86_400
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, x509_vfy.h


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths. `client_ca`: "": any client may come. `table`: the table of the settings that name
    them.
    """

    certificate: str
    key: str
    client_ca: str = ""
    table: str = "listen"

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that are set."""
        return tuple(path for path in (self.certificate, self.key, self.client_ca) if path)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and key for handshakes. `names`: by which clients may call the listener.
    `concern`: a warning about the key's file; None: there is none.
    """

    context: ssl.SSLContext
    begins_s: float  # since 1970
    ends_s: float
    names: tuple[str, ...]
    concern: str | None

    def faults(self, now_s: float) -> Iterator[str]:
        """Why clients that check certificates refuse this one now."""
        if now_s < self.begins_s:
            yield (
                f"is not valid yet, for {_days(self.begins_s - now_s)}: look at the clock of this"
                " machine, or give another one"
            )
        if now_s > self.ends_s:
            yield f"has expired, {_days(now_s - self.ends_s)} ago: renew it"
        if not self.names:
            yield (
                "names no host (subjectAltName), and clients look there only: issue one with the"
                " names and addresses by which clients call kdaemon"
            )

    def expires_soon(self, now_s: float) -> str | None:
        """A warning if the certificate ends within SOON_S; else None."""
        if now_s < self.ends_s < now_s + SOON_S:
            return f"expires in {_days(self.ends_s - now_s)}: renew it"
        return None


def load_pair(files: TlsFiles) -> Pair:
    """Reads and checks the files. Raises TlsError."""
    certificate = _read(files, "tls_certificate", files.certificate)
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise _error(files, "tls_certificate", "holds no certificate in the form PEM")
    concern = _look_at_key(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1
    context.set_alpn_protocols(ALPN)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except _EncryptedKeyError:
        text = "is encrypted, and nobody is there to type its password: give it without one"
        raise _error(files, "tls_key", f"{text} (openssl pkey -in KEY -out NEW)") from None
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise _of_pair(files, error) from error
    found = _prove(files, context, certificate)
    _require_clients(files, context)
    return Pair(
        context,
        ssl.cert_time_to_seconds(str(found["notBefore"])),
        ssl.cert_time_to_seconds(str(found["notAfter"])),
        tuple(str(name) for _, name in found.get("subjectAltName", ())),
        concern,
    )


class _EncryptedKeyError(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedKeyError


def _read(files: TlsFiles, key: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, PermissionError):
            reason += f" for user {_user(os.geteuid())}"
        problem = f"cannot be read ({reason}): correct the path, or the rights to the file"
        raise _error(files, key, problem) from error
    if len(text) > FILE_BYTES_MAX:
        raise _error(files, key, f"has more than {FILE_BYTES_MAX} bytes, and is none")
    return text


def _look_at_key(files: TlsFiles) -> str | None:
    """Raises TlsError if others may change the key. Returns a warning about others that may read
    it; None: there are none.
    """
    if b"PRIVATE KEY-----" not in _read(files, "tls_key", files.key):
        raise _error(files, "tls_key", "holds no private key in the form PEM")
    try:
        status = Path(files.key).stat()
    except OSError as error:
        raise _error(files, "tls_key", f"cannot be looked at ({error.strerror})") from error
    me, owner, mode = os.geteuid(), status.st_uid, stat.S_IMODE(status.st_mode)
    if owner not in (me, 0):
        problem = f"belongs to {_user(owner)}, and this is {_user(me)}: chown {_user(me)} it"
        raise _error(files, "tls_key", problem)
    if mode & stat.S_IWOTH:
        raise _error(files, "tls_key", f"may be written by everybody (mode {mode:04o}): chmod 0600")
    name = f"{files.table}.tls_key: {printable(files.key, 300)}"
    if mode & stat.S_IROTH:
        return f"{name} may be read by everybody (mode {mode:04o}): chmod 0600, or 0640"
    if mode & stat.S_IWGRP:
        return f"{name} may be written by its group (mode {mode:04o}): chmod g-w"
    return None


def _of_pair(files: TlsFiles, error: Exception) -> TlsError:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        problem = f"does not belong to the certificate {printable(files.certificate, 300)}"
        return _error(files, "tls_key", f"{problem}: give the two that were made together")
    if reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        words = str(reason).replace("_", " ").lower()
        return _error(files, "tls_certificate", f"is too weak for clients of today ({words})")
    told = str(reason or "one of the two is damaged").replace("_", " ").lower()
    return _error(files, "tls_certificate", f"cannot be used with its key ({told})")


def _prove(files: TlsFiles, server: ssl.SSLContext, text: bytes) -> dict[str, Any]:
    """Makes a handshake with itself, trusting this certificate alone and whatever its dates.
    Returns the certificate's content. Raises TlsError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags = ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        context.load_verify_locations(cadata=text.decode("ascii", "replace"))
        while not (_is_done(client) & _is_done(other)):  # both, in turns
            pass
    except (ssl.SSLError, ValueError) as error:
        told = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        problem = f"is none that clients can check ({str(told).replace('_', ' ').lower()})"
        raise _error(files, "tls_certificate", problem) from error
    found: dict[str, Any] = client.getpeercert() or {}
    return found


def _is_done(side: ssl.SSLObject) -> bool:
    """Makes one step of a side's handshake. Returns whether the handshake is done."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _require_clients(files: TlsFiles, context: ssl.SSLContext) -> None:
    """From now on a client must show a certificate that the authority has signed. Raises
    TlsError.
    """
    if not files.client_ca:
        return
    if b"-----BEGIN CERTIFICATE-----" not in _read(files, "tls_client_ca", files.client_ca):
        raise _error(files, "tls_client_ca", "holds no certificate in the form PEM")
    try:
        context.load_verify_locations(cafile=files.client_ca)
    except (OSError, ValueError) as error:
        told = str(getattr(error, "reason", None) or error).replace("_", " ").lower()
        raise _error(files, "tls_client_ca", f"cannot be used ({told})") from error
    context.verify_mode = ssl.CERT_REQUIRED


def _error(files: TlsFiles, key: str, problem: str) -> TlsError:
    path: str = getattr(files, key.removeprefix("tls_"))
    return TlsError(f"{files.table}.{key}: {printable(path, 300)} {problem}")


def _days(seconds: float) -> str:
    """`3 hours`, `12 days`: rounded down."""
    count, unit = (seconds // 86_400, "day") if seconds >= 86_400 else (seconds // 3600, "hour")
    return f"{count:.0f} {unit}{'' if count == 1 else 's'}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
