"""The settings of a client of the service: where, as whom, how, and for how long to call. Values.

Must not know the environment, files or the AWS libraries: None leaves a setting to them. Which
settings contradict each other is known to the configuration (`config/upstream_rules.py`).
"""

from dataclasses import dataclass, field, replace
from typing import Final, Self

from kdaemon.base.names import DEFAULT_UPSTREAM
from kdaemon.base.service import AWS, Service

ACCOUNT_ID_MODES: Final = ("preferred", "disabled", "required")  # botocore 1.43.117, 2026-11-28
# The longest time if a role's credentials assume the role; STS's default.
ROLE_DURATION_S: Final = 3600


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where and how to call. None: from the AWS environment (variables, profile, instance).

    `endpoint_url` keeps its path (a Yandex database can be in it). Times in seconds:
    `connect_timeout_s` covers the pool, the name, TCP and TLS; `read_timeout_s` a silence after the
    request; `call_timeout_s` one call with everything that belongs to it. `connections_max`: at
    least the number of calls that may be in flight. `is_anonymous` (the sandbox; needs
    `endpoint_url`): a fixed key, no AWS environment, no proxy. `account_id`: of the credentials, if
    these do not tell it.

    `name`: the upstream's; texts leave out the default upstream's. `role_arn`: a role to assume
    with the found credentials; `role_external_id`, `role_session_name` (None: made of the host's
    name) and `role_duration_s` are sent to STS with it. `use_fips`, `use_dualstack`: other
    addresses of AWS. `account_id_endpoint_mode`: whether the host has the account in its name.
    `proxy_url`: for all calls; "": no proxy. `iam_token_file`, `iam_token_url`: where Yandex's IAM
    token is found, which is used instead of a signature. `ca_bundle`: a file of certificates; no
    others are trusted, also not for STS.
    """

    service: Service = AWS
    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None
    account_id: str | None = None
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    call_timeout_s: float = 15.0
    connections_max: int = 64
    is_anonymous: bool = False
    name: str = DEFAULT_UPSTREAM
    role_arn: str | None = None
    role_external_id: str | None = field(default=None, repr=False)
    role_session_name: str | None = None
    role_duration_s: int = ROLE_DURATION_S
    use_fips: bool | None = None
    use_dualstack: bool | None = None
    account_id_endpoint_mode: str | None = None
    proxy_url: str | None = field(default=None, repr=False)  # it may have a password
    iam_token_file: str | None = None
    iam_token_url: str | None = None
    ca_bundle: str | None = None

    @property
    def label(self) -> str:
        """The beginning of a text about this upstream; "": of the default one's."""
        return "" if self.name == DEFAULT_UPSTREAM else f"upstream {self.name}: "

    @property
    def has_iam_token(self) -> bool:
        """Whether a token is used instead of keys and signatures."""
        return self.iam_token_file is not None or self.iam_token_url is not None

    def with_limits_of(self, other: "ClientSettings") -> Self:
        """These settings, but with the times and the number of connections of `other`."""
        return replace(
            self,
            connect_timeout_s=other.connect_timeout_s,
            read_timeout_s=other.read_timeout_s,
            call_timeout_s=other.call_timeout_s,
            connections_max=other.connections_max,
        )
