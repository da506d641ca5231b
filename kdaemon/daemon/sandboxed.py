"""`kdaemon run --sandbox`: an embedded service in the place of each upstream.

About: where the embedded services listen, which streams they have, and the configuration that leads
to them. Invariant: settings for a real service (credentials, roles, proxies) are not used for an
embedded one.
Where it sits: daemon.py -> here -> sandbox/run.py; change.py leads a new configuration to them,
too.
"""

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from kdaemon.base.endpoint import host_port, http_url
from kdaemon.base.names import DEFAULT_UPSTREAM, full_path, parse_arn
from kdaemon.config import Config, ReachConfig, SandboxConfig
from kdaemon.http.listener import cannot_listen, log_listening

SANDBOX_REGION = "us-east-1"  # where none is configured; ours: nothing checks it, any would do
BESIDE_SANDBOX: dict[str, Any] = {
    **dict.fromkeys(("profile", "role_arn", "role_external_id", "role_session_name"), ""),
    **dict.fromkeys(("iam_token_file", "iam_token_url", "ca_file"), ""),
    **dict.fromkeys(("fips", "dual_stack", "account_endpoints"), "auto"),
}
"""Settings for a real service, as an embedded one needs them."""


SandboxAddresses = dict[str, tuple[str, str]]
"""Endpoint and region of each embedded service, by upstream."""


async def start_sandbox(config: Config, stack: AsyncExitStack) -> SandboxAddresses:
    """Opens a sandbox for each upstream. The default upstream's is at `sandbox.listen`, the others
    are at free ports of the same address. Streams that the configuration lists are made in them.
    `stack`: closes them. Raises ListenerError.
    """
    places = {}
    for name in config.upstream_names:
        upstream = config.upstream(name)
        settings = replace(config.sandbox, streams=_streams(config, name))
        listener, database = "sandbox", ""
        if name != DEFAULT_UPSTREAM:
            listener = f"sandbox of upstreams.{name}"
            database = urlsplit(upstream.endpoint_url).path  # of Yandex
            settings = replace(settings, listen=host_port(config.sandbox.address.host, 0))
        if database and not upstream.traits.has_arns:
            settings = replace(
                settings, streams=tuple(full_path(each, database) for each in settings.streams)
            )
        region = upstream.region or upstream.traits.region or SANDBOX_REGION
        url = await _open(settings, listener, upstream, region, config.listen.hosts, stack)
        places[name] = (url + database, region)
    return places


def _streams(config: Config, upstream: str) -> tuple[str, ...]:
    """The streams to make: those of `sandbox.streams`, and the listed ones of this upstream."""
    listed = config.listed_of(upstream).values()
    arns = [parse_arn(each.arn) for each in listed]
    names = [
        each.upstream_name or each.name if arn is None else arn.name
        for each, arn in zip(listed, arns, strict=True)
    ]
    return (*config.sandbox.streams, *names)


async def _open(
    settings: SandboxConfig,
    name: str,
    reach: ReachConfig,
    region: str,
    hosts: tuple[str, ...],
    stack: AsyncExitStack,
) -> str:
    """Opens one embedded service; returns its address. `reach`: gives its account."""
    from kdaemon.sandbox.run import open_sandbox  # noqa: PLC0415 - memory, only where it is used

    address = settings.address
    try:
        sandbox = await open_sandbox(
            settings, hosts, service=reach.service, account=reach.account, region=region
        )
    except OSError as error:
        raise cannot_listen("sandbox.listen", address.host, address.port, error) from error
    stack.push_async_callback(sandbox.aclose)
    endpoint = http_url(address.host, sandbox.port, is_tls=bool(settings.tls_certificate))
    log_listening(name, endpoint)
    return endpoint


def at_places(config: Config, places: SandboxAddresses) -> Config:
    """`config`, but leading to the embedded services that run."""
    upstreams = {
        name: replace(each, endpoint_url=places[name][0], region=places[name][1], **BESIDE_SANDBOX)
        for name, each in config.upstreams.items()
    }
    endpoint_url, region = places[DEFAULT_UPSTREAM]
    return replace(
        config,
        endpoint_url=endpoint_url,
        region=region,
        upstreams=upstreams,
        **BESIDE_SANDBOX,
    )
