"""What a client of the service is told: where, how, and for how long to call. Values only."""

from dataclasses import dataclass

from kdaemon.base.service import AWS, Service


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where and how to call. None: from the AWS environment (variables, profile, instance).

    `endpoint_url` keeps its path (a Yandex database can be in it). Times in seconds:
    `connect_timeout_s` covers the pool, the name, TCP and TLS; `read_timeout_s` a silence after the
    request; `call_timeout_s` one call with all that belongs to it. `connections_max`: at least the
    calls that may be in flight. `is_anonymous` (the sandbox; needs `endpoint_url`): a fixed key,
    no AWS environment, no proxy. `account_id`: of the credentials, where they do not tell it.
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
