"""Where to call, as the AWS libraries find it: region, address, trust, and the address of STS.

Knows the session of botocore and its endpoint rules: a table test compares each host with the one
that a botocore client calls. Must not know credentials (callers pass the account in), requests or
answers. `credentials.py` knows as whom to call. Each failure is a `ServiceError` that was not sent.
Invariant: a setting of this upstream goes before the environment, also in the clients that botocore
itself builds (for a profile's own role, for SSO).
"""

import os
import ssl
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from kdaemon.base.endpoint import (
    REGION_VARIABLES,
    Endpoint,
    endpoint_problem,
    endpoint_variable,
    region_problem,
    region_variable,
)
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.send.settings import ACCOUNT_ID_MODES, ClientSettings
from kdaemon.send.sts import STS_OPERATIONS
from kdaemon.send.trust import trusted

DATA_OPERATIONS: Final = frozenset(  # the model's OperationType "data"; all others are "control"
    {"PutRecords", "PutRecord", "GetRecords", "GetShardIterator", "SubscribeToShard"}
)
AWS_DOMAINS: Final = (".amazonaws.com", ".amazonaws.com.cn")  # VPC endpoints' too; 2026-11-28
_ENDPOINT_SETTINGS: Final = (
    "endpoint_url, AWS_ENDPOINT_URL_KINESIS, AWS_ENDPOINT_URL or the profile"
)
ANONYMOUS_REGION: Final = "us-east-1"  # ours: nothing checks it, any would do
RULES_MAX: Final = 4  # two services, with up to two data paths; ours, 2026-11-28
_REGION_VARIABLES: Final = ", ".join(REGION_VARIABLES)
_OF_ITS_OWN: Final = (  # fields of ClientSettings, and their names in botocore's session
    ("region", "region"),  # also used for STS, when a role is assumed
    ("ca_bundle", "ca_bundle"),
    ("use_fips", "use_fips_endpoint"),
    ("use_dualstack", "use_dualstack_endpoint"),
    ("account_id_endpoint_mode", "account_id_endpoint_mode"),
)


class EndpointRules:
    """The address as the AWS libraries know it, at the time when this object was made: botocore
    reads a profile and the environment only once.
    """

    uses_proxies: Final = True

    def __init__(self, settings: ClientSettings) -> None:
        """Blocks for some 20 ms. Raises what botocore raises for a profile that it cannot read, and
        `ServiceError` for settings that contradict each other.
        """
        from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415 - see below

        session = _session(settings)
        variable = session.get_config_variable
        is_ignored = variable("ignore_configured_endpoint_urls")

        def configured(service: str, environ: dict[str, str] | None = None) -> str | None:
            files = session.full_config, session.get_scoped_config()
            provider = ConfiguredEndpointProvider(*files, service, environ)
            return None if is_ignored else provider.provide()

        endpoint_url = settings.endpoint_url
        # A token is sent only to a configured address.
        if not (endpoint_url or settings.has_iam_token):
            # The environment sets the default upstream's address: else all upstreams would share
            # it.
            endpoint_url = configured("kinesis", None if settings.name == DEFAULT_UPSTREAM else {})
        giver = "" if settings.endpoint_url or not endpoint_url else _giver(settings.name)
        region = variable("region")
        if settings.service.region is not None:  # a region that is meant for AWS would be refused
            region = settings.region or settings.service.region
        endpoint_url = endpoint_url or settings.service.endpoint_url
        data_path = variable("data_path")
        # Where an address is configured, the rules are not used.
        self._rules: Any = None if endpoint_url else rules_of("kinesis", data_path)
        has_accounts = settings.service.has_arns
        self._sts_url = configured("sts") if has_accounts else None
        # Where Kinesis is a stand-in, the STS on the internet is asked only for a role.
        is_of_aws = not endpoint_url or _is_of_aws(endpoint_url)
        asks_aws = has_accounts and (is_of_aws or bool(settings.role_arn)) and not self._sts_url
        self._sts_rules: Any = rules_of("sts", data_path) if asks_aws else None
        self.is_beside_stand_in = has_accounts and not is_of_aws and not self._sts_url
        self.session = session
        self._endpoint_url = endpoint_url
        self.configured = Endpoint(endpoint_url or "", giver)
        self.region, is_fips = _plain_region(region)
        self._use_fips = is_fips or bool(variable("use_fips_endpoint"))
        self._use_dualstack = bool(variable("use_dualstack_endpoint"))
        self._account_id_mode = _account_id_mode(variable("account_id_endpoint_mode"))
        self._account_id = settings.account_id
        self.trust = _trust(variable("ca_bundle"), is_ours=settings.ca_bundle is not None)
        if endpoint_url:
            _refuse_both(settings)

    @property
    def may_ask_sts(self) -> bool:
        """Whether there is an STS to ask."""
        return bool(self.region and (self._sts_url or self._sts_rules))

    def endpoint(self, operation: str, arn: str | None, account_id: str | None) -> tuple[str, str]:
        """URL and region for a call. A stream that is named by its ARN is in the ARN's region,
        whatever is configured. `account_id`: of the credentials. Raises `ServiceError` (NoRegion,
        EndpointError), not sent.
        """
        is_sts = operation in STS_OPERATIONS
        region = (arn or ":::").split(":")[3] or self.region
        if not region:
            raise ServiceError(
                Trouble.NO_REGION,
                "no region in the configuration, AWS_REGION or the profile: set the key "
                "`region`"
                + (" (STS is asked there)" if is_sts else ", or name the stream by its ARN"),
                was_sent=False,
            )
        problem = region_problem(region)
        if problem is not None:
            raise ServiceError(
                Trouble.NO_REGION,
                f"the region {problem}: see the key `region`, {_REGION_VARIABLES} and the profile",
                was_sent=False,
            )
        url = self._sts_url if is_sts else self._endpoint_url
        if url:
            return usable_url(url), region
        known = {} if is_sts else self._known(operation, arn, account_id)
        try:
            resolved = (self._sts_rules if is_sts else self._rules).resolve_endpoint(
                Region=region,
                UseFIPS=self._use_fips,
                UseDualStack=self._use_dualstack,
                **known,
            )
        except Exception as error:  # noqa: BLE001 - of many kinds, all of them from the configuration
            raise ServiceError(
                Trouble.ENDPOINT, f"no endpoint for region {region}: {error}", was_sent=False
            ) from None
        return usable_url(str(resolved.url)), region

    def _known(self, operation: str, arn: str | None, account_id: str | None) -> dict[str, str]:
        """The values that the rules may use. If a host must have an account in its name and the
        credentials do not tell theirs, the setting gives the account.
        """
        if self._account_id_mode == "required":
            account_id = account_id or self._account_id
        known = {
            "StreamARN": arn,
            "AccountId": account_id,
            "AccountIdEndpointMode": self._account_id_mode,
            "OperationType": "data" if operation in DATA_OPERATIONS else "control",
        }
        return {name: value for name, value in known.items() if value}


class OneEndpoint:
    """Stands in for the rules where a service is embedded in this process: one address."""

    uses_proxies: Final = False
    trust: Final = False  # any certificate will do
    may_ask_sts: Final = False
    is_beside_stand_in: Final = True

    def __init__(self, settings: ClientSettings) -> None:
        self.region = settings.region or ANONYMOUS_REGION
        self._url = usable_url(settings.endpoint_url or "")
        self.configured = Endpoint(self._url)

    def endpoint(self, _operation: str, _arn: str | None, _account: str | None) -> tuple[str, str]:
        """URL and region for a call."""
        return self._url, self.region


Rules = EndpointRules | OneEndpoint


@lru_cache(RULES_MAX)
def rules_of(service: str, data_path: str | None) -> Any:
    """Endpoint rules: 0.4 MiB, the same for all clients, and kept as long as the process runs."""
    from botocore.endpoint_provider import EndpointProvider  # noqa: PLC0415 - see import_libraries
    from botocore.loaders import create_loader  # noqa: PLC0415 - the same

    loader = create_loader(data_path)  # not the session's loader, which keeps everything it reads
    model = loader.load_service_model(service, "endpoint-rule-set-1")
    return EndpointProvider(model, loader.load_data("partitions"))


def _session(settings: ClientSettings) -> Any:
    """Makes a session for each client, so that no profile sees the caches of another."""
    from aiobotocore.session import AioSession  # noqa: PLC0415 - see credentials.import_libraries

    session = AioSession(profile=settings.profile)
    if (told := region_variable(os.environ)) is not None:
        session.set_config_variable("region", told[1])
    for field, name in _OF_ITS_OWN:
        value = getattr(settings, field)
        if value is not None and value != "":
            session.set_config_variable(name, value)
    if settings.proxy_url is not None:
        from aiobotocore.config import AioConfig  # noqa: PLC0415 - the same

        url = settings.proxy_url
        proxies = {"http": url, "https": url} if url else {}
        session.set_default_client_config(AioConfig(proxies=proxies))
    return session


def _plain_region(region: str | None) -> tuple[str | None, bool]:
    """A region without the word `fips`, which old settings have in their regions, and whether the
    word was there; as botocore does.
    """
    if not region:
        return region, False
    plain = region.replace("fips-", "").replace("-fips", "")
    return plain, plain != region


def _account_id_mode(mode: str | None) -> str | None:
    lower = mode.lower() if mode else None
    if lower is not None and lower not in ACCOUNT_ID_MODES:
        known = ", ".join(ACCOUNT_ID_MODES)
        raise ServiceError(
            Trouble.ENDPOINT,
            f"AWS_ACCOUNT_ID_ENDPOINT_MODE or the profile's account_id_endpoint_mode is none of"
            f" {known}: correct it",
            was_sent=False,
        )
    return lower


def _refuse_both(settings: ClientSettings) -> None:
    """Refuses settings that choose an address of AWS if an address is configured."""
    for is_set, key in ((settings.use_fips, "fips"), (settings.use_dualstack, "dual_stack")):
        if is_set:
            raise ServiceError(
                Trouble.ENDPOINT,
                f"the key {key} chooses an address of AWS, and AWS_ENDPOINT_URL_KINESIS,"
                " AWS_ENDPOINT_URL or the profile names another: keep one of the two",
                was_sent=False,
            )


def usable_url(url: str) -> str:
    """`scheme://host[:port]/path`. Raises `ServiceError`, which says what to correct."""
    problem = endpoint_problem(url)
    if problem is not None:
        raise ServiceError(
            Trouble.ENDPOINT,
            f"the endpoint {problem}: correct {_ENDPOINT_SETTINGS}",
            was_sent=False,
        )
    return url if urlsplit(url).path else f"{url}/"


def _giver(upstream: str) -> str:
    """What gave the address that no setting gives."""
    found = endpoint_variable(os.environ) if upstream == DEFAULT_UPSTREAM else None
    return "the AWS profile" if found is None else found[0]


def _is_of_aws(url: str) -> bool:
    if endpoint_problem(url) is not None:
        return False
    return (urlsplit(url).hostname or "").endswith(AWS_DOMAINS)


def _trust(ca_bundle: str | None, *, is_ours: bool) -> ssl.SSLContext | bool:
    """What to trust: only `ca_bundle` if it is set; else the system's store; else botocore's."""
    if ca_bundle:
        return trusted(ca_bundle, "the key ca_file" if is_ours else None)
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return True
    from botocore.httpsession import get_cert_path  # noqa: PLC0415 - see import_libraries

    return ssl.create_default_context(cafile=get_cert_path(verify=True))
