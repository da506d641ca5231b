"""A role that is assumed: its keys, lent by STS for the credentials that the machine has.

Knows what STS refuses and which setting that concerns. Must not know the AWS libraries or HTTP: it
is told how to ask. Imported where there is a role only: nobody else has its memory. Why not by a
client of botocore: that takes 9 MiB, is built on the event loop, and lets keys go ten minutes
before their end.
Invariant: each failure is a `ServiceError` that was not sent, and names the setting; neither the
external id nor a key is in its text.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.redact import SECRETS
from kdaemon.send.credentials import Aws, credentials_error
from kdaemon.send.lent import Lent, Spawn
from kdaemon.send.place import Place
from kdaemon.send.request import Keys
from kdaemon.send.settings import ROLE_DURATION_S, ClientSettings
from kdaemon.send.sts import assume_role_question, lent_in, session_name

Ask = Callable[[bytes], Awaitable[bytes]]
"""Asks STS, signed with the machine's credentials. Raises `ServiceError` for whatever is no 200."""

AskSts = Callable[[Place, bytes, Keys], Awaitable[bytes]]
"""The same, of that place's STS, signed with these keys."""

BASE_REFUSED: Final = frozenset(  # the machine's own credentials are no good; refused by STS
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId"),
        *("SignatureDoesNotMatch", "InvalidSignatureException", "UnrecognizedClientException"),
        *("IncompleteSignature", "MissingAuthenticationToken"),
    }
)


def role_account(role_arn: str) -> str:
    """The account that a role is in: whose calls its keys make."""
    return role_arn.split(":")[4]


class Role:
    """One role, assumed again ahead of the end of its keys."""

    __slots__ = (
        *("_arn", "_ask", "_has_external_id", "_lent", "_name", "_owner", "_parts", "_question"),
        "account_id",
    )

    def __init__(self, settings: ClientSettings, ask: Ask, spawn: Spawn) -> None:
        arn = settings.role_arn
        assert arn is not None
        self._arn = arn
        self._ask = ask
        self._name = "" if settings.name == DEFAULT_UPSTREAM else f"upstream {settings.name}: "
        self._has_external_id = settings.role_external_id is not None
        self._question = assume_role_question(
            arn,
            settings.role_session_name or session_name(),
            settings.role_duration_s,
            settings.role_external_id,
        )
        self.account_id = role_account(arn)
        self._owner = f"{settings.name}: role"  # of secrets
        lasts = "" if settings.role_duration_s == ROLE_DURATION_S else ", role_duration_s"
        self._parts = f"role_arn, role_session_name, role_external_id{lasts}"
        what = f"{self._name}role_arn {arn}: STS"
        self._lent: Lent[Keys] = Lent(self._assume, spawn, settings.connect_timeout_s, what)

    async def keys(self) -> Keys:
        """The same object until they are renewed."""
        return await self._lent.get()

    @property
    def ends_at(self) -> datetime | None:
        """As `Lent`."""
        return self._lent.ends_at

    async def first(self) -> None:
        """Assumes it for the first time, however long STS takes."""
        await self._lent.first()

    async def _assume(self) -> tuple[Keys, datetime]:
        try:
            answer = await self._ask(self._question)
        except ServiceError as error:
            failure = self._in_words(error)
        else:
            lent = lent_in(answer, self.account_id)
            if lent is not None:
                keys, _ = lent
                SECRETS.register(keys.access_key, keys.secret_key, keys.token, owner=self._owner)
                return lent
            text = f"{self._name}role_arn {self._arn}: STS's answer has no keys that can be read"
            failure = ServiceError(Trouble.CREDENTIALS, text, was_sent=False)
        raise failure  # here, so that no context carries a request along

    def _in_words(self, error: ServiceError) -> ServiceError:
        """What STS, or the way to STS, refused, and the setting to look at. The kind of a failure
        on the way stays: it mends as that kind mends.
        """
        remedy = self._remedy(error) if error.trouble is None else ""
        is_passing = error.trouble is not None or not remedy
        return ServiceError(
            error.code,
            f"{self._name}role_arn {self._arn}: STS: {_said(error)}{remedy}",
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
        return ""  # it passes


class AssumedRole(Aws):
    """The keys of a role, lent for the credentials that this machine has."""

    __slots__ = ("_role",)

    def __init__(self, settings: ClientSettings, ask_sts: AskSts, spawn: Spawn) -> None:
        """As `Aws`."""
        super().__init__(settings)

        async def ask(question: bytes) -> bytes:
            try:
                own = await Aws.keys(self)
            except ServiceError:
                raise
            except Exception as error:  # noqa: BLE001 - as in `keys_of`
                failure = credentials_error(error)
            else:
                return await ask_sts(self.place, question, own)
            raise failure

        self._role = Role(settings, ask, spawn)

    async def find_credentials(self) -> None:
        """As `Aws`; and assumes the role."""
        await super().find_credentials()
        await self._role.first()

    async def keys(self) -> Keys:
        """The same object until they are renewed, ahead of their end."""
        return await self._role.keys()

    @property
    def ends_at(self) -> datetime | None:
        """When the role's keys end; None: there are none yet."""
        return self._role.ends_at

    @property
    def account_id(self) -> str | None:
        return self._role.account_id


def _is_throttle(error: ServiceError) -> bool:
    return "Throttl" in error.code or "LimitExceeded" in error.code


def _said(error: ServiceError) -> str:
    return f"{error.code}: {error.message}" if error.trouble is None else error.message
