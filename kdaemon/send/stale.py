"""Which refusals newer credentials may mend: those of a call that was refused for its credentials.

Knows the services' codes, and how they speak of a token. Pure. Where it sits: `client.py` asks here
before it calls a second time.
"""

import re
from typing import Final

from kdaemon.base.errors import ServiceError

STALE_CREDENTIALS: Final = frozenset(  # refused before anything was written; newer ones may pass
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "TokenRefreshRequired",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
    }
)
STALE_TOKEN: Final = frozenset(  # the same for Yandex's IAM token
    {
        *("Unauthenticated", "UnauthenticatedException", "NotAuthenticated", "AuthFailure"),
        *("Unauthorized", "UnauthorizedException", "InvalidToken", "InvalidTokenException"),
    }
)
# Stale only if the text says so.
DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException"})
_speaks_of_token: Final = re.compile(r"\btoken\b|expired", re.IGNORECASE).search


def is_stale(error: ServiceError, *, has_iam_token: bool) -> bool:
    """Whether newer credentials may pass: the call was refused before anything was written."""
    if error.code in STALE_CREDENTIALS:
        return True
    if not has_iam_token:
        return False
    is_denied = error.code in DENIED and _speaks_of_token(error.message) is not None
    return is_denied or error.code in STALE_TOKEN or error.status == 401
