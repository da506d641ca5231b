"""As whom and where to call, as the AWS libraries find it: credentials, region, endpoint, trust.

The only importer of aiobotocore and botocore. They give the credentials and their refresh, the
region, the endpoint rules, and what exactly is to be signed. No botocore client is built: its
session and endpoint rules alone take 9 MiB and 0.1 s less. And between calls only the date and the
body's hash change in what is signed, so botocore writes the rest once per endpoint and key
(`request.py`): 55 us a call its way, 6 us this way. Measured 2026-11-21, Python 3.11, 2 cores.

Must not know requests, answers, or who calls. Each failure is a `ServiceError` that was not sent.
Invariant: no secret in an error or a repr, and each is registered (`base/redact.py`) before it is
used; a key that cannot be right is refused by the name of its setting, before it is sent anywhere.
"""

import os
import re
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

from kdaemon.base.endpoint import endpoint_problem, region_problem, text_problem
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.names import is_account
from kdaemon.base.redact import SECRETS
from kdaemon.send.request import STAMP, Canonical, Keys
from kdaemon.send.settings import ClientSettings
from kdaemon.send.trust import trusted

TARGET_PREFIX: Final = "Kinesis_20131202"  # botocore 1.43.117's service model, 2026-11-21
CONTENT_TYPE: Final = "application/x-amz-json-1.1"  # the same
DATA_OPERATIONS: Final = frozenset(  # the model's OperationType "data"; all others are "control"
    {"PutRecords", "PutRecord", "GetRecords", "GetShardIterator", "SubscribeToShard"}
)
GET_CALLER_IDENTITY: Final = "GetCallerIdentity"  # of STS, not of Kinesis
STS_CONTENT_TYPE: Final = "application/x-www-form-urlencoded; charset=utf-8"  # its model: query
STS_QUESTION: Final = b"Action=GetCallerIdentity&Version=2011-06-15"  # the same, 2026-11-28
AWS_DOMAINS: Final = (".amazonaws.com", ".amazonaws.com.cn")  # VPC endpoints' too; 2026-11-28
_account_in: Final = re.compile(rb"<Account>([0-9]{12})</Account>").search  # of its answer
ANONYMOUS_REGION: Final = "us-east-1"  # ours: any would do, nothing checks it
ANONYMOUS_KEYS: Final = Keys("kdaemon-sandbox", "kdaemon-sandbox")  # ours: the same
ANONYMOUS_ACCOUNT: Final = "000000000000"  # the sandbox's (`sandbox/settings.py`)
_KEY_PARTS: Final = (  # of Keys: in words, and the variable that can give it
    ("access_key", "the access key id", "AWS_ACCESS_KEY_ID"),
    ("secret_key", "the secret access key", "AWS_SECRET_ACCESS_KEY"),
    ("token", "the session token", "AWS_SESSION_TOKEN"),
)
_PROFILES: Final = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")  # as botocore has it: the first wins
_ENDPOINT_SETTINGS: Final = (
    "endpoint_url, AWS_ENDPOINT_URL_KINESIS, AWS_ENDPOINT_URL or the profile"
)


class Aws:
    """What the AWS libraries know of this machine: credentials, region, endpoint, trust.

    A refresh replaces it as a whole: botocore reads a profile and the environment only once.
    """

    __slots__ = (
        *("_account_id_mode", "_credentials", "_endpoint_url", "_frozen", "_keys"),
        *("_rules", "_session", "_sts_rules", "_sts_url", "_use_dualstack", "_use_fips"),
        "is_beside_stand_in",
        *("region", "trust"),
    )
    uses_proxies: Final = True

    def __init__(self, settings: ClientSettings) -> None:
        """Blocks for some 20 ms. Raises what botocore raises for a profile that it cannot read."""
        from aiobotocore.session import AioSession  # noqa: PLC0415 - see import_libraries
        from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415 - the same
        from botocore.endpoint_provider import EndpointProvider  # noqa: PLC0415 - the same
        from botocore.loaders import create_loader  # noqa: PLC0415 - the same

        session = AioSession(profile=settings.profile)
        if settings.region:  # for STS too, when a role is assumed
            session.set_config_variable("region", settings.region)
        variable = session.get_config_variable
        is_ignored = variable("ignore_configured_endpoint_urls")

        def configured(service: str) -> str | None:
            files = session.full_config, session.get_scoped_config()
            return None if is_ignored else ConfiguredEndpointProvider(*files, service).provide()

        endpoint_url = settings.endpoint_url or configured("kinesis")
        region = variable("region")
        if settings.service.region is not None:  # one that is meant for AWS would be refused
            region = settings.region or settings.service.region
        endpoint_url = endpoint_url or settings.service.endpoint_url
        loader = create_loader(variable("data_path"))  # not the session's, which keeps all it read

        def rules(service: str) -> EndpointProvider:
            model = loader.load_service_model(service, "endpoint-rule-set-1")
            return EndpointProvider(model, loader.load_data("partitions"))

        # Rules take 0.4 MiB, and tell nothing where an address is configured.
        self._rules: Any = None if endpoint_url else rules("kinesis")
        has_accounts = settings.service.has_arns
        self._sts_url = configured("sts") if has_accounts else None
        # Where Kinesis is a stand-in, the STS on the internet is not asked.
        is_of_aws = not endpoint_url or _is_of_aws(endpoint_url)
        asks_aws = has_accounts and is_of_aws and not self._sts_url
        self._sts_rules: Any = rules("sts") if asks_aws else None
        self.is_beside_stand_in = has_accounts and not is_of_aws and not self._sts_url
        self._session = session
        self._credentials: Any = None
        self._frozen: Any = None
        self._keys = ANONYMOUS_KEYS  # replaced by the first `keys`
        self._endpoint_url = endpoint_url
        self.region = region
        self._use_fips = bool(variable("use_fips_endpoint"))
        self._use_dualstack = bool(variable("use_dualstack_endpoint"))
        self._account_id_mode = variable("account_id_endpoint_mode")
        self.trust = _trust(variable("ca_bundle"))

    async def find_credentials(self) -> None:
        """Walks the chain: environment, profile, web identity, SSO, container, instance role."""
        self._credentials = await self._session.get_credentials()
        if self._credentials is None:
            raise ServiceError(
                Trouble.NO_CREDENTIALS,
                "no credentials in the environment, a profile, a web identity, a container or an "
                "instance role: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the key "
                "`profile`, or give the machine a role",
                was_sent=False,
            )

    async def keys(self) -> Keys:
        """The same object until they change. The library refreshes them here, ahead of expiry."""
        frozen = await self._credentials.get_frozen_credentials()
        if frozen != self._frozen:
            keys = Keys(frozen.access_key, frozen.secret_key, frozen.token, frozen.account_id)
            for value in (keys.access_key, keys.secret_key, keys.token):
                SECRETS.register(value, value and value.strip())  # the one with a line break, too
            self._check(keys)
            self._frozen = frozen
            self._keys = keys
        return self._keys

    def _check(self, keys: Keys) -> None:
        """Raises `ServiceError` for a key that cannot be right: what no key has would break the
        request's head, or be signed as it stands.
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
    def account_id(self) -> str | None:
        """Whose credentials these are, where their source says so."""
        account = self._keys.account_id
        return account if account and is_account(account) else None

    @property
    def may_ask_sts(self) -> bool:
        """Whether there is an STS that can tell whose they are."""
        return bool(self.region and (self._sts_url or self._sts_rules))

    def endpoint(self, operation: str, arn: str | None) -> tuple[str, str]:
        """URL and region for a call: a stream that is named by its ARN lives in the ARN's region,
        whatever is configured. Raises `ServiceError` (NoRegion, EndpointError), not sent.
        """
        region = (arn or ":::").split(":")[3] or self.region
        if not region:
            raise ServiceError(
                Trouble.NO_REGION,
                "no region in the configuration, AWS_DEFAULT_REGION or the profile: set the key "
                "`region`, or name the stream by its ARN",
                was_sent=False,
            )
        problem = region_problem(region)
        if problem is not None:
            raise ServiceError(
                Trouble.NO_REGION,
                f"the region {problem}: see the key `region`, AWS_DEFAULT_REGION and the profile",
                was_sent=False,
            )
        is_sts = operation == GET_CALLER_IDENTITY
        url = self._sts_url if is_sts else self._endpoint_url
        if url:
            return usable_url(url), region
        known = {
            "StreamARN": arn,
            "AccountId": self._keys.account_id,
            "AccountIdEndpointMode": self._account_id_mode,
            "OperationType": "data" if operation in DATA_OPERATIONS else "control",
        }
        try:
            rules = self._sts_rules if is_sts else self._rules
            resolved = rules.resolve_endpoint(
                Region=region,
                UseFIPS=self._use_fips,
                UseDualStack=self._use_dualstack,
                **({} if is_sts else {name: value for name, value in known.items() if value}),
            )
        except Exception as error:  # noqa: BLE001 - of many kinds, all of them configuration
            raise ServiceError(
                Trouble.ENDPOINT, f"no endpoint for region {region}: {error}", was_sent=False
            ) from None
        return usable_url(str(resolved.url)), region


class Anonymous:
    """A stand-in for `Aws` where nobody checks signatures: no AWS library but the signer."""

    __slots__ = ("_endpoint", "account_id", "region")
    uses_proxies: Final = False  # the sandbox is on this machine
    trust: Final = False  # whatever it shows: it is in this process
    may_ask_sts: Final = False
    is_beside_stand_in: Final = True

    def __init__(self, settings: ClientSettings) -> None:
        self.region = settings.region or ANONYMOUS_REGION
        self.account_id = settings.account_id or ANONYMOUS_ACCOUNT
        self._endpoint = (usable_url(settings.endpoint_url or ""), self.region)

    async def keys(self) -> Keys:
        return ANONYMOUS_KEYS

    def endpoint(self, _operation: str, _arn: str | None) -> tuple[str, str]:
        return self._endpoint


def import_libraries(*, is_anonymous: bool) -> None:
    """The imports that cost 0.1 s and 10 MiB; those above that do the same find them done.

    Not at the top, so that listeners are bound first and a sandbox run does without most of them.
    """
    import botocore.auth  # noqa: F401, PLC0415

    if not is_anonymous:
        import aiobotocore.session  # noqa: F401, PLC0415


def profile_problem(profile: str | None) -> tuple[str, str] | None:
    """Why the profile that calls would use is none: the variable that names it ("": `profile`, the
    setting, does) and what is wrong; None: nothing is. Reads the AWS files, and asks nobody.
    """
    variable = "" if profile else next((each for each in _PROFILES if each in os.environ), None)
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


async def keys_of(aws: Aws | Anonymous) -> Keys:
    try:
        return await aws.keys()
    except ServiceError:
        raise
    except Exception as error:  # noqa: BLE001 - a refresh runs others' code: processes, files, HTTP
        failure = credentials_error(error)
    raise failure


def credentials_error(error: Exception) -> ServiceError:
    """What kept the credentials away, without what a provider printed: it can hold the secret."""
    fields = getattr(error, "kwargs", {})
    where = [f"{name} {fields[name]}" for name in ("provider", "profile", "path") if name in fields]
    if "cred_var" in fields:
        where.append(f"{fields['cred_var']} is missing")
    if type(error).__name__ == "InvalidConfigError":  # of all providers' words these alone are safe
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
    """The file that cannot be read, why not, and the variable that names it, if one does. A program
    that cannot be run is not named by who runs it.
    """
    if not error.filename:
        return f"{error.strerror}: see `credential_process` of the profile"
    path = str(error.filename)
    names = (
        name for name, value in os.environ.items() if name.startswith("AWS_") and value == path
    )
    setting = next(names, None)
    return f"{setting or 'file'} {path} ({error.strerror})"


def usable_url(url: str) -> str:
    """`scheme://host[:port]/path`, or a `ServiceError` that says what to correct."""
    problem = endpoint_problem(url)
    if problem is not None:
        raise ServiceError(
            Trouble.ENDPOINT,
            f"the endpoint {problem}: correct {_ENDPOINT_SETTINGS}",
            was_sent=False,
        )
    return url if urlsplit(url).path else f"{url}/"


def account_in(answer: bytes) -> str | None:
    """Whose keys STS says they are; None: it does not."""
    found = _account_in(answer)
    return None if found is None else found[1].decode()


def canonical(operation: str, url: str, region: str, keys: Keys) -> Canonical:
    """What SigV4 signs of such a call, by botocore's own rules."""
    from botocore.auth import EMPTY_SHA256_HASH, SigV4Auth  # noqa: PLC0415 - see import_libraries
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - the same

    if operation == GET_CALLER_IDENTITY:
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


def _is_of_aws(url: str) -> bool:
    if endpoint_problem(url) is not None:
        return False
    return (urlsplit(url).hostname or "").endswith(AWS_DOMAINS)


def _trust(ca_bundle: str | None) -> ssl.SSLContext | bool:
    """Whom to trust: `ca_bundle` alone if set, else the system's store, else botocore's."""
    if ca_bundle:
        return trusted(ca_bundle)
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return True
    from botocore.httpsession import get_cert_path  # noqa: PLC0415 - see import_libraries

    return ssl.create_default_context(cafile=get_cert_path(verify=True))
