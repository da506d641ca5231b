"""Certificates to trust, from a file that somebody named; what is wrong with the file, in words.

Knows files and TLS only: `kdaemon check` looks here too, without a client. Invariant: a file that
cannot be used is never the same as none, which would trust the system's.
"""

import os
import ssl

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.text import printable


def trusted(path: str) -> ssl.SSLContext:
    """Trusts what the file holds and nothing else. Raises `ServiceError` (TrustError), not sent."""
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        failure = _trust_error(path, error)
    raise failure


def _trust_error(path: str, error: Exception) -> ServiceError:
    """A file of certificates that cannot be used: which setting named it, and why."""
    setting = "AWS_CA_BUNDLE" if os.environ.get("AWS_CA_BUNDLE") == path else "the key ca_bundle"
    if isinstance(error, ssl.SSLError):
        try:
            is_empty = not os.path.getsize(path)  # noqa: PTH202 - one look
        except OSError:
            is_empty = False
        why = "is an empty file" if is_empty else "holds no certificate in the form PEM"
    elif isinstance(error, OSError):
        why = f"cannot be read ({error.strerror or type(error).__name__})"
    else:
        why = "is no path"
    return ServiceError(
        Trouble.TRUST,
        f"{setting} names {printable(path, 300)}, which {why}: give the path of a PEM file with the"
        " certificates to trust, or take the setting away",
        was_sent=False,
    )
