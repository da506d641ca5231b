"""Settings of upstreams: the address of a service, the identity for its calls, and how it is
called. Pure.

The default upstream has them at the top level and in [send], each other upstream in
[upstreams.NAME]. Where it sits: `settings.py` is made of these.
"""

from dataclasses import dataclass

from kdaemon.base.endpoint import region_of_endpoint
from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.service import AWS, SERVICES, YANDEX, Service
from kdaemon.config.about import Mark, setting
from kdaemon.config.values import (
    AccountEndpoints,
    AccountId,
    ExternalId,
    FilePath,
    Milliseconds,
    PoolSize,
    ProxyUrl,
    Region,
    RoleArn,
    ServiceName,
    SessionName,
    Switch,
    Text,
    Url,
    account_of_role,
)

CONNECT_TIMEOUT_MS = 3_000
"""Of the name, TCP and TLS, which are five round trips at most. Ours, 2026-11-21."""

_LIVE = Mark.LIVE
_RESTART = Mark.RESTART  # records queued by name would go to another account's stream
_TIMES_FOLLOW = f"{AWS.call_timeout_ms}; of Yandex {YANDEX.call_timeout_ms}"


@dataclass(frozen=True, slots=True)
class ReachConfig:
    """Where a service is, and as whom it is called: at the top level, of the default upstream; and
    in each [upstreams.NAME].
    """

    service: ServiceName = setting(
        "aws",
        _RESTART,
        'The service: "aws" (Kinesis Data Streams) or "yandex" (Yandex Data Streams).',
    )
    region: Region = setting(
        "",
        _RESTART,
        'The region of AWS. "": that of AWS_REGION, of AWS_DEFAULT_REGION or of the profile.',
    )
    endpoint_url: Url = setting(
        "",
        _RESTART,
        'Where the service is. "": its own endpoint.',
        "Yandex: the URL may end in the path of the database.",
    )
    profile: Text = setting(
        "",
        _RESTART,
        'A profile of the AWS configuration files. "": AWS_PROFILE, or the default profile.',
    )
    account_id: AccountId = setting(
        "",
        _RESTART,
        "The AWS account of the credentials, 12 digits. With it an ARN of this account and a"
        " stream's name are known to mean one stream.",
        '"": what the credentials, AWS_ACCOUNT_ID, role_arn, STS or the service tell. Set it where'
        " STS cannot be reached and only PutRecords is allowed.",
    )
    role_arn: RoleArn = setting(
        "", _RESTART, 'A role of AWS IAM that is assumed with these credentials. "": none.'
    )
    role_external_id: ExternalId = setting(
        "", _RESTART, 'The external id that the role asks for. "": none.'
    )
    role_session_name: SessionName = setting(
        "",
        _RESTART,
        'The name under which the role is assumed. "": one with the host\'s name.',
    )
    fips: Switch = setting(
        "auto",
        _RESTART,
        "AWS is called at endpoints that are FIPS 140 validated."
        ' "auto": as the AWS environment and the profile say.',
        "What endpoint_url says wins.",
    )
    dual_stack: Switch = setting(
        "auto",
        _RESTART,
        'AWS is called at endpoints that also have IPv6 addresses. "auto": the same.',
    )
    account_endpoints: AccountEndpoints = setting(
        "auto",
        _RESTART,
        "AWS is called at endpoints with the account in their name, where it is known"
        ' ("preferred") or always ("required"). "auto": the same.',
    )
    iam_token_file: FilePath = setting(
        "",
        _RESTART,
        "Yandex: a file with an IAM token, in the place of keys.",
        "Something else refreshes it, as `yc iam create-token` writes it.",
    )
    iam_token_url: Url = setting(
        "",
        _RESTART,
        "Yandex: the metadata of the machine, which tell an IAM token, in the place of keys.",
        "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token.",
    )
    proxy_url: ProxyUrl = setting(
        "auto",
        _RESTART,
        'A proxy of all calls. "auto": that of HTTP_PROXY, HTTPS_PROXY and NO_PROXY. "": none.',
    )
    ca_file: FilePath = setting(
        "",
        _RESTART,
        'Authorities that are trusted in the place of the system\'s, a PEM file. "": as'
        " AWS_CA_BUNDLE says.",
    )

    @property
    def traits(self) -> Service:
        """All that differs between the services, of this one."""
        return SERVICES[self.service]

    @property
    def has_token(self) -> bool:
        """Whether an IAM token stands in the place of keys."""
        return bool(self.iam_token_file or self.iam_token_url)

    @property
    def home_region(self) -> str:
        """The region that the configuration tells, by the endpoint if need be; "": none."""
        return self.region or region_of_endpoint(self.endpoint_url) or ""

    @property
    def account(self) -> str:
        """The account that the configuration tells; "": none."""
        return self.account_id or account_of_role(self.role_arn) or ""


@dataclass(frozen=True, slots=True)
class SendConfig:
    """[send]: calls to the default upstream; [upstreams.NAME] has the same keys, of its own."""

    call_timeout_ms: Milliseconds = setting(
        AWS.call_timeout_ms,
        _LIVE,
        "One call to the service, from start to end.",
        "Yandex holds a write for up to 60 s before it answers. A connection is waited for 3 s, the"
        " next bytes of an answer two thirds of the call (Yandex: 65/70); both grow in proportion"
        " where a call may take longer than by default.",
        follows=_TIMES_FOLLOW,
    )
    connections_max: PoolSize = setting(
        0,
        _LIVE,
        "Connections to the service. 0: as many as calls may be under way.",
        "A call that finds none free waits as long as to connect.",
    )


@dataclass(frozen=True, slots=True)
class UpstreamConfig(ReachConfig):
    """[upstreams.NAME]: one more account, region or database, beside the default one."""

    name: str = DEFAULT_UPSTREAM
    call_timeout_ms: Milliseconds = setting(
        AWS.call_timeout_ms, _LIVE, "As in [send].", follows=_TIMES_FOLLOW
    )
    connections_max: PoolSize = setting(0, _LIVE, "As in [send].", follows="that of [send]")

    @property
    def read_timeout_ms(self) -> int:
        """To the next bytes of an answer: the same part of a call as by default."""
        service = self.traits
        return max(1, self.call_timeout_ms * service.read_timeout_ms // service.call_timeout_ms)

    @property
    def connect_timeout_ms(self) -> int:
        """To find credentials, or a connection: CONNECT_TIMEOUT_MS, and as much longer as a call
        may take longer than by default. Never longer than the call.
        """
        longer = max(1.0, self.call_timeout_ms / self.traits.call_timeout_ms)
        return min(self.call_timeout_ms, round(CONNECT_TIMEOUT_MS * longer))
