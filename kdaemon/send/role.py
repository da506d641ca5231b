"""An assumed role: STS lends its keys for the credentials that the machine has.

Knows what STS refuses, and which setting is at fault. Must not know HTTP: the caller passes in how
to ask. Imported only where there is a role, to save the memory elsewhere. No client of botocore is
used: such a client takes 9 MiB, is built on the event loop, and lets keys go ten minutes before
their end.
Invariant: each failure is a `ServiceError` that was not sent, and names the setting; neither the
external id nor a key is in its text.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.redact import SECRETS
from kdaemon.send.credentials import Aws, told_of
from kdaemon.send.endpoint_rules import Rules
from kdaemon.send.lent import Lent, Spawn
from kdaemon.send.request import Keys
from kdaemon.send.settings import ROLE_DURATION_S, ClientSettings
from kdaemon.send.sts import assume_role_question, lent_in, session_name

AskSts = Callable[[Rules, bytes, Keys], Awaitable[bytes]]
"""Asks the STS of these rules, signed with these keys. Raises `ServiceError` for all but a 200."""

BASE_REFUSED: Final = frozenset(  # codes by which STS refuses the machine's own credentials
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId"),
        *("SignatureDoesNotMatch", "InvalidSignatureException", "UnrecognizedClientException"),
        *("IncompleteSignature", "MissingAuthenticationToken"),
    }
)


def role_account(role_arn: str) -> str:
    """The account of a role. Calls with the role's keys are made by this account."""
    return role_arn.split(":")[4]


class AssumedRole(Aws):
    """The keys of a role, lent by STS for the credentials of this machine. The role is assumed
    again before its keys end.
    """

    def __init__(self, settings: ClientSettings, ask_sts: AskSts, spawn: Spawn) -> None:
        """Blocks and raises as `EndpointRules` does."""
        super().__init__(settings)
        assert settings.role_arn is not None
        self._ask_sts = ask_sts
        self._what = f"{settings.label}role_arn {settings.role_arn}: STS"
        self._has_external_id = settings.role_external_id is not None
        self._question = assume_role_question(
            settings.role_arn,
            settings.role_session_name or session_name(),
            settings.role_duration_s,
            settings.role_external_id,
        )
        self._account_id = role_account(settings.role_arn)
        self._role_owner = f"{settings.name}: role"  # of secrets
        lasts = "" if settings.role_duration_s == ROLE_DURATION_S else ", role_duration_s"
        self._parts = f"role_arn, role_session_name, role_external_id{lasts}"
        self._lent = Lent(self._assume, spawn, settings.connect_timeout_s, self._what)

    async def find_credentials(self) -> None:
        """Finds the machine's credentials, and assumes the role, however long STS takes."""
        await super().find_credentials()
        await self._lent.renewed()

    async def keys(self) -> Keys:
        """The same object until the keys are renewed, before their end."""
        return await self._lent.get()

    @property
    def ends_at(self) -> datetime | None:
        """When the role's keys end; None: there are none yet."""
        return self._lent.ends_at

    @property
    def account_id(self) -> str:
        """The role's account: calls with its keys are made by this account."""
        return self._account_id

    async def _assume(self) -> tuple[Keys, datetime]:
        try:
            own = await told_of(super().keys())
            answer = await self._ask_sts(self.rules, self._question, own)
        except ServiceError as error:
            failure = self._in_words(error)
        else:
            lent = lent_in(answer, self._account_id)
            if lent is not None:
                keys, _ = lent
                SECRETS.register(
                    keys.access_key, keys.secret_key, keys.token, owner=self._role_owner
                )
                return lent
            text = f"{self._what}'s answer has no keys that can be read"
            failure = ServiceError(Trouble.CREDENTIALS, text, was_sent=False)
        raise failure  # here, so that no context of the error holds a request

    def _in_words(self, error: ServiceError) -> ServiceError:
        """The error, in words: what STS, or the way to STS, refused, and the setting to look at. A
        failure on the way keeps its kind, since it mends in the same way.
        """
        remedy = self._remedy(error) if error.trouble is None else ""
        is_passing = error.trouble is not None or not remedy
        return ServiceError(
            error.code,
            f"{self._what}: {_said(error)}{remedy}",
            status=error.status,
            was_sent=False,
            trouble=error.trouble if is_passing else Trouble.CREDENTIALS,
            retry_after_ns=error.retry_after_ns,
            is_nameless=error.is_nameless,
        )

    def _remedy(self, error: ServiceError) -> str:
        if error.code in BASE_REFUSED:
            return (
                "; the credentials with which the role is to be assumed have expired or are wrong:"
                " see `profile`, the environment and the machine's clock"
            )
        if error.code in {"AccessDenied", "AccessDeniedException"}:
            given = "is not set" if not self._has_external_id else "may be another one"
            return (
                "; either these credentials may not call sts:AssumeRole, or the role's trust policy"
                f" does not let them in, or it expects an external id (role_external_id {given})"
            )
        if error.code in {"ValidationError", "ValidationException", "PackedPolicyTooLarge"}:
            return f"; see {self._parts}"
        if error.code == "RegionDisabledException":
            return "; activate STS in this region, set `region`, or AWS_ENDPOINT_URL_STS"
        if 400 <= error.status < 500 and error.status not in {408, 429} and not _is_throttle(error):
            return "; see role_arn and AWS_ENDPOINT_URL_STS"
        return ""  # the failure passes by itself


def _is_throttle(error: ServiceError) -> bool:
    return "Throttl" in error.code or "LimitExceeded" in error.code


def _said(error: ServiceError) -> str:
    return f"{error.code}: {error.message}" if error.trouble is None else error.message
