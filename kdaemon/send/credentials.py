"""The identity of calls, as the AWS libraries find it: credentials, and the text that is signed.

With `endpoint_rules.py` (where to call) this is the only importer of aiobotocore and botocore. They
give the credentials and their refresh, the region, the endpoint rules, and the exact text to sign.
No botocore client is built: using only botocore's session and endpoint rules saves 9 MiB and 0.1 s.
Between two calls only the date and the body's hash change in the signed text, so botocore writes
the rest once for each endpoint and key (`request.py`): 6 us a call, instead of botocore's 55 us.
Measured 2026-11-21, Python 3.11, 2 cores.

Must not know requests, answers, or who calls. Each failure is a `ServiceError` that was not sent.
Invariant: no secret is in an error or a repr, and each secret is registered (`base/redact.py`)
before it is used. A key that cannot be right is refused, with the name of its setting, before it is
sent anywhere.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Final, TypeVar

from kdaemon.base.endpoint import text_problem
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.names import is_account
from kdaemon.base.redact import SECRETS
from kdaemon.config.surroundings import PROFILES
from kdaemon.send.endpoint_rules import EndpointRules, OneEndpoint, Rules
from kdaemon.send.request import STAMP, Canonical, Keys, Route, SignedRoute
from kdaemon.send.settings import ClientSettings
from kdaemon.send.sts import STS_CONTENT_TYPE, STS_OPERATIONS

TARGET_PREFIX: Final = "Kinesis_20131202"  # botocore 1.43.117's service model, 2026-11-21
CONTENT_TYPE: Final = "application/x-amz-json-1.1"  # the same
ANONYMOUS_KEYS: Final = Keys("kdaemon-sandbox", "kdaemon-sandbox")  # ours: the same
ANONYMOUS_ACCOUNT: Final = "000000000000"  # the sandbox's (`sandbox/settings.py`)
_KEY_PARTS: Final = (  # a field of Keys, its name in words, and the variable that can set it
    ("access_key", "the access key id", "AWS_ACCESS_KEY_ID"),
    ("secret_key", "the secret access key", "AWS_SECRET_ACCESS_KEY"),
    ("token", "the session token", "AWS_SESSION_TOKEN"),
)
T = TypeVar("T")


class Who(ABC):
    """As whom calls go (`keys`), and where (`rules`)."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    @property
    def account_id(self) -> str | None:
        """The account of the credentials, if their source tells it."""
        return None

    @property
    def ends_at(self) -> datetime | None:
        """When the credentials in use end, unless they are renewed; None: they do not end, or their
        source does not tell.
        """
        return None

    async def find_credentials(self) -> None:
        """Is called before the first `keys`. Raises as `keys`."""
        await self.keys()

    @abstractmethod
    async def keys(self) -> Keys:
        """The keys: the same object until they change. Raises `ServiceError`, and whatever a source
        raises.
        """

    async def renew(self, refused: Keys) -> bool:  # noqa: ARG002 - for sources that look for others
        """Looks for other keys than these, in place. False: the whole object must be made again."""
        return False

    def route(self, operation: str, arn: str | None, keys: Keys) -> Route:
        """The prepared request, signed. Raises `ServiceError`, not sent."""
        return signed_route(self.rules, operation, arn, keys)


class Aws(Who):
    """The credentials of this machine. A refresh replaces the whole object: botocore reads a
    profile and the environment only once.
    """

    def __init__(self, settings: ClientSettings) -> None:
        """Blocks and raises as `EndpointRules` does."""
        rules = EndpointRules(settings)
        super().__init__(rules)
        self._session = rules.session
        # Of secrets: an object that replaces this one has the same.
        self._owner = f"{settings.name}: keys"
        self._credentials: Any = None
        self._frozen: Any = None
        self._keys = ANONYMOUS_KEYS  # replaced by the first `keys`

    async def find_credentials(self) -> None:
        """Tries all sources: environment, profile, web identity, SSO, container, instance role."""
        self._credentials = await self._session.get_credentials()
        if self._credentials is None:
            raise ServiceError(
                Trouble.NO_CREDENTIALS,
                "no credentials in the environment, a profile, a web identity, a container or an "
                "instance role: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the key "
                "`profile`, or give the machine a role; at Yandex also iam_token_file or "
                "iam_token_url",
                was_sent=False,
            )

    async def keys(self) -> Keys:
        """The same object until they change. The library refreshes the keys here, before
        they end.
        """
        frozen = await self._credentials.get_frozen_credentials()
        if frozen != self._frozen:
            keys = Keys(frozen.access_key, frozen.secret_key, frozen.token, frozen.account_id)
            values = [keys.access_key, keys.secret_key, keys.token]
            # Without a line break that some values have.
            plain = [value and value.strip() for value in values]
            SECRETS.register(*values, *plain, owner=self._owner)
            self._check(keys)
            self._frozen = frozen
            self._keys = keys
        return self._keys

    def _check(self, keys: Keys) -> None:
        """Raises `ServiceError` for a key that cannot be right: a character that no key has would
        break the request's head, or be signed as a part of the key.
        """
        method = str(getattr(self._credentials, "method", None) or "the credentials")
        for part, words, variable in _KEY_PARTS:
            value = getattr(keys, part)
            problem = text_problem(value) if value else None
            if problem is not None:
                where = variable if method == "env" else f"{words} (from {method})"
                raise ServiceError(
                    Trouble.INVALID_KEY, f"{where} {problem}: correct it", was_sent=False
                )

    @property
    def ends_at(self) -> datetime | None:
        """As botocore keeps the end of keys that it refreshes (1.43.117); it has no public name."""
        return getattr(self._credentials, "_expiry_time", None)

    @property
    def account_id(self) -> str | None:
        """The account of the credentials, if their source tells it."""
        account = self._keys.account_id
        return account if account and is_account(account) else None


class Anonymous(Who):
    """Stands in for credentials where nobody checks signatures. Needs only the signer of the AWS
    libraries.
    """

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(OneEndpoint(settings))
        self._account_id = settings.account_id or ANONYMOUS_ACCOUNT

    @property
    def account_id(self) -> str:
        """As the settings say; else the sandbox's."""
        return self._account_id

    async def keys(self) -> Keys:
        """Those that nobody checks."""
        return ANONYMOUS_KEYS


def signed_route(rules: Rules, operation: str, arn: str | None, keys: Keys) -> Route:
    """A prepared request that is signed. Raises `ServiceError`, not sent."""
    url, region = rules.endpoint(operation, arn, keys.account_id)
    return SignedRoute(url, region, keys, canonical(operation, url, region, keys))


def import_libraries(*, is_anonymous: bool) -> None:
    """The imports that cost 0.1 s and 10 MiB. Later imports of the same are free.

    They are not at the top of files, so that listeners are bound first, and so that a sandbox run
    does without most of them.
    """
    import botocore.auth  # noqa: F401, PLC0415

    if not is_anonymous:
        import aiobotocore.session  # noqa: F401, PLC0415


def profile_problem(profile: str | None) -> tuple[str, str] | None:
    """What is wrong with the profile that calls would use: the variable that names the profile ("":
    the setting `profile` does), and the problem; None: nothing is wrong. Reads the AWS files, and
    makes no call.
    """
    variable = "" if profile else next((each for each in PROFILES if each in os.environ), None)
    if variable is None:
        return None
    from botocore.exceptions import (  # noqa: PLC0415 - see import_libraries
        ConfigParseError,
        ProfileNotFound,
    )
    from botocore.session import Session  # noqa: PLC0415 - the same

    session = Session(profile=profile)
    name = session.get_config_variable("profile")
    files = [str(session.get_config_variable(each)) for each in ("config_file", "credentials_file")]
    try:
        session.get_scoped_config()
    except ConfigParseError as error:
        return variable, f"is {name!r}, and {error.kwargs['path']} cannot be read: correct it"
    except ProfileNotFound:
        looked_at = " and ".join(map(_looked_at, files))
        return variable, f"is {name!r}, a profile that is not in {looked_at}: correct it, or add it"
    return None


def _looked_at(path: str) -> str:
    path = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - as botocore does
    return path if os.path.isfile(path) else f"{path} (no such file)"  # noqa: PTH113 - one look


async def told_of(search: Awaitable[T]) -> T:
    """What a search for credentials gives. Raises `ServiceError`, whatever it raises."""
    try:
        return await search
    except ServiceError:
        raise
    except Exception as error:  # noqa: BLE001 - others' code runs: processes, files, HTTP
        failure = credentials_error(error)
    raise failure  # here, so that no context of the error holds a credential process's output


def credentials_error(error: Exception) -> ServiceError:
    """Why credentials were not found. Without the text of a provider, which can hold the secret."""
    fields = getattr(error, "kwargs", {})
    where = [f"{name} {fields[name]}" for name in ("provider", "profile", "path") if name in fields]
    if "cred_var" in fields:
        where.append(f"{fields['cred_var']} is missing")
    # Of all providers' texts only this one is safe.
    if type(error).__name__ == "InvalidConfigError":
        where.append(SECRETS.clean(str(fields.get("error_msg"))))
    if isinstance(error, OSError):
        where.append(_file_of(error))
    return ServiceError(
        Trouble.CREDENTIALS,
        f"credentials cannot be read: {', '.join([type(error).__name__, *where])}; "
        "try `aws sts get-caller-identity` as the same user and in the same environment",
        was_sent=False,
    )


def _file_of(error: OSError) -> str:
    """The file that cannot be read, the reason, and the variable that names the file, if one does.
    For a program that cannot be run, the error names no file.
    """
    if not error.filename:
        return f"{error.strerror}: see `credential_process` of the profile"
    path = str(error.filename)
    names = (
        name for name, value in os.environ.items() if name.startswith("AWS_") and value == path
    )
    setting = next(names, None)
    return f"{setting or 'file'} {path} ({error.strerror})"


def canonical(operation: str, url: str, region: str, keys: Keys) -> Canonical:
    """The text that SigV4 signs for such a call, by botocore's own rules."""
    from botocore.auth import EMPTY_SHA256_HASH, SigV4Auth  # noqa: PLC0415 - see import_libraries
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - the same

    if operation in STS_OPERATIONS:
        service = "sts"
        headers = {"Content-Type": STS_CONTENT_TYPE, "X-Amz-Date": STAMP}
    else:
        service = "kinesis"
        target = f"{TARGET_PREFIX}.{operation}"
        headers = {"Content-Type": CONTENT_TYPE, "X-Amz-Target": target, "X-Amz-Date": STAMP}
    if keys.token:
        headers["X-Amz-Security-Token"] = keys.token
    auth = SigV4Auth(keys, service, region)
    request = AWSRequest("POST", url, headers=headers, data=b"")
    signed = auth.headers_to_sign(request)
    return Canonical(
        text=auth.canonical_request(request).removesuffix(EMPTY_SHA256_HASH),
        signed_names=auth.signed_headers(signed),
        headers=headers | {"Host": signed["host"]},
        service=service,
    )
