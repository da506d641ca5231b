"""Composition of the embedded service: for `kdaemon sandbox`, and within `kdaemon run --sandbox`.

No logic: settings -> Service with its streams -> server. `daemon/` calls `open_sandbox` for itself;
`run_sandbox` is the whole `sandbox` command.
"""

import asyncio
import logging
from collections.abc import Callable

from kdaemon.base.endpoint import http_url
from kdaemon.base.errors import TlsError
from kdaemon.base.service import SERVICES
from kdaemon.config import SandboxConfig
from kdaemon.http.listener import cannot_listen, log_listening
from kdaemon.http.renewal import files_of
from kdaemon.sandbox.server import SandboxServer
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import ACCOUNT, REGION, Quota, SandboxSettings
from kdaemon.system import SystemClock, SystemDice, on_signals

log = logging.getLogger("kdaemon.sandbox")


async def open_sandbox(
    config: SandboxConfig,
    hosts: tuple[str, ...] = (),
    *,
    service: str = "aws",
    account: str = "",
    region: str = "",
) -> SandboxServer:
    """A sandbox that listens where `config` says, with its streams made. Raises OSError or
    TlsError.

    The caller calls `aclose`. `hosts`: names by which clients may call the sandbox (listen.hosts).
    `service`: which one it imitates. `account`, `region`: for its ARNs; "": the sandbox's own.
    """
    clock = SystemClock()
    quota = Quota(config.shard_records_per_second, config.shard_bytes_per_second)
    settings = SandboxSettings(
        service=SERVICES[service],
        quota=quota,
        account=account or ACCOUNT,
        region=region or REGION,
    )
    imitation = Service(settings, SystemDice())
    for name in dict.fromkeys(config.streams):
        imitation.create_stream(name, config.shard_count, clock.now_ns())
    server = SandboxServer(imitation, clock)
    files = files_of(config, "sandbox")
    await server.start(config.address.host, config.address.port, hosts, files)
    return server


async def run_sandbox(
    config: SandboxConfig,
    hosts: tuple[str, ...],
    service: str,
    tell: Callable[[str], object] | None = None,
) -> int:
    """Serves until a signal asks for the end; returns the exit code. Its records are lost then.
    `tell`: is given the sandbox's URL once it listens.
    """
    is_stopped = asyncio.Event()
    on_signals(asyncio.get_running_loop(), lambda _: is_stopped.set())
    try:
        server = await open_sandbox(config, hosts, service=service)
    except (OSError, TlsError) as error:
        failure: Exception = error
        if isinstance(error, OSError):
            failure = cannot_listen(
                "sandbox.listen", config.address.host, config.address.port, error
            )
        log.error("cannot start: %s", failure)  # noqa: TRY400 - for people
        return 1
    try:
        url = http_url(config.address.host, server.port, is_tls=bool(config.tls_certificate))
        streams = ",".join(config.streams)
        log_listening("sandbox", url, streams=streams, shards=config.shard_count)
        if tell is not None:
            tell(url)
        await is_stopped.wait()
    finally:
        await server.aclose()
    log.info("stopped")
    return 0
