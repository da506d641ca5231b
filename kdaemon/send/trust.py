"""Certificates to trust, from a configured file; and what is wrong with the file, in words.

Knows only files and TLS: `kdaemon check` also uses it, without a client. Invariant: a file that
cannot be used is never treated as no file, for which the system's certificates are trusted.
"""

import os
import ssl

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.text import printable


def trusted(path: str, setting: str | None = None) -> ssl.SSLContext:
    """A context that trusts what the file holds, and nothing else. `setting`: the one that names
    the file; None: a setting of AWS's. Raises `ServiceError` (TrustError), not sent.
    """
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        failure = _trust_error(path, error, setting)
    raise failure


def _trust_error(path: str, error: Exception, setting: str | None) -> ServiceError:
    """The error for a file that cannot be used: which setting names it, and what is wrong."""
    if setting is None:
        is_variable = os.environ.get("AWS_CA_BUNDLE") == path
        setting = "AWS_CA_BUNDLE" if is_variable else "the profile's ca_bundle"
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
