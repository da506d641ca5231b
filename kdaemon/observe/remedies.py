"""Remedies: a line of advice for each kind of error that holds a stream or fails a check.

Knows the codes of the services and our own codes of trouble. Pure. Invariant: a remedy names what
to change, and where. An unknown code has no remedy: the service's text must do.
"""

import re
from collections.abc import Mapping

from kdaemon.base.errors import Trouble

_CLOCK = "set this machine's clock (chronyc tracking; timedatectl): signatures are good for minutes"
_KEYS = (
    "these credentials are not known there: see profile, the AWS_* variables, and whether the keys"
    " were deleted or are of another partition or service"
)
_RIGHTS = (
    "give kdaemon's identity the right: `kdaemon iam` prints the least policy; see also policies of"
    " the organisation, of the stream and of the VPC endpoint"
)
_KEY_OF_STREAM = "the stream's KMS key: give kms:GenerateDataKey on it, and see that it is enabled"
_NETWORK = "see the network: DNS, routes, security groups, the proxy variables, endpoint_url"
_YANDEX_RIGHTS = (
    "see who refreshes iam_token_file, or iam_token_url, and that its account has yds.writer"
)

_REMEDIES: Mapping[tuple[str, ...], str] = {
    (Trouble.NO_CREDENTIALS.value,): (
        "give credentials: a role of the machine, pod or task; or AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY; or profile; at Yandex also iam_token_file or iam_token_url"
    ),
    (Trouble.CREDENTIALS.value, Trouble.INVALID_KEY.value): (
        "mend where the credentials come from: the profile, its files, AWS_* variables, the role"
    ),
    (Trouble.NO_REGION.value,): "set region, or AWS_REGION",
    (Trouble.ENDPOINT.value,): "mend endpoint_url or region: no address can be made of them",
    (Trouble.PROXY.value,): "mend proxy_url or HTTPS_PROXY, with user and password if it asks",
    (Trouble.TRUST.value,): "mend ca_file or AWS_CA_BUNDLE: PEM certificates to trust",
    (Trouble.TLS.value,): (
        "trust who signs the service's certificate (ca_file), or see who answers in its place"
    ),
    (Trouble.DNS.value,): "see region and endpoint_url for a typing error, and the resolver",
    (
        Trouble.CONNECT.value,
        Trouble.CONNECT_TIMEOUT.value,
        Trouble.CONNECTION_LOST.value,
        Trouble.READ_TIMEOUT.value,
        Trouble.CALL_TIMEOUT.value,
    ): _NETWORK,
    (Trouble.FOREIGN.value, Trouble.UNREADABLE.value): (
        "something else answers in the service's place: see endpoint_url and the proxy variables"
    ),
    ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"): (
        "refresh the credentials (aws sso login, the role, the token's file); kdaemon takes them"
        " by itself"
    ),
    ("RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"): _CLOCK,
    (
        *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"),
        *("MissingAuthenticationToken", "MissingAuthenticationTokenException", "AuthFailure"),
        *("InvalidToken", "InvalidTokenException"),
    ): _KEYS,
    ("ResourceInUse", "ResourceInUseException"): (
        "the stream is being made or changed: wait, kdaemon goes on by itself"
    ),
    (
        *(
            "InvalidAction",
            "MissingAction",
            "UnsupportedOperation",
            "UnsupportedOperationException",
        ),
        *("UnknownOperation", "UnknownOperationException", "HttpMethodNotAllowed", "UnknownMethod"),
        *("Http404", "Http405", Trouble.UNPREPARED.value),
    ): "the address is another service's, or is misspelt: see endpoint_url, region and service",
    (
        *("InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"),
        "IncompleteSignatureException",
    ): f"the secret key is another one's, the region is wrong, or the clock: {_CLOCK}",
    (
        "Unauthenticated",
        "Unauthorized",
        "UnauthorizedException",
        "NotAuthenticated",
    ): _YANDEX_RIGHTS,
    (
        *("AccessDenied", "AccessDeniedException", "ForbiddenException", "UnauthorizedOperation"),
        *("NotAuthorized", "NotAuthorizedException"),
    ): _RIGHTS,
    (
        *("KMSAccessDeniedException", "KMSDisabledException", "KMSNotFoundException"),
        *("KMSInvalidStateException", "KMSOptInRequired"),
    ): _KEY_OF_STREAM,
    ("ResourceNotFoundException", "NotFound"): (
        "make the stream, or mend its name, the region or the account; at Yandex also: give"
        " yds.writer and yds.viewer, without which it says the same"
    ),
    ("OptInRequired", "SubscriptionRequiredException", "PendingVerification", "Blocked"): (
        "the account itself may not use the service: see its console, or ask the service's support"
    ),
    ("ProvisionedThroughputExceededException",): (
        "its shards take no more, perhaps because others write to them: give the stream more"
        " shards, or let the others write through kdaemon; kdaemon goes on by itself"
    ),
    (
        *("InternalFailure", "InternalServerError", "InternalError", "InternalException"),
        *("ServiceUnavailable", "ServiceUnavailableException", "Unavailable"),
    ): "the service itself fails: see its status page; kdaemon goes on by itself",
    ("LimitExceededException", "ThrottlingException"): (
        "others use up what the account, or the stream, may be asked: kdaemon goes on by itself;"
        " for a check, try again; ask AWS for a higher quota"
    ),
}
_BY_CODE: Mapping[str, str] = {code: text for codes, text in _REMEDIES.items() for code in codes}


def remedy(code: str, message: str = "") -> str | None:
    """What to do about an error; None: no remedy is known. `message`: the service's text, or ours;
    a text about signature times tells of a wrong clock, whatever the code.
    """
    if "ignature expired" in message or "ignature not yet current" in message:
        return _CLOCK
    return _BY_CODE.get(code)


_OWN = frozenset(each.value for each in Trouble)
_ADVICE = re.compile(r"[:;,] ((?:set|give|correct|keep|see|try) .+)", re.DOTALL)


def advised(code: str, message: str) -> tuple[str, str | None]:
    """The message, and what to do (None: not known). A message of kdaemon's own may end in advice,
    which knows the setting at fault: this advice then stands in place of the remedy, and is taken
    out of the message.
    """
    found = _ADVICE.search(message) if code in _OWN else None
    if found is None:
        return message, remedy(code, message)
    return message[: found.start()], found[1]
