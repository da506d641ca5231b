"""The upstreams of a daemon: for each a client, its control calls, and its relay.

About: opening upstreams for a configuration, changing them for a new one, and closing those that a
new one left out. Must not know streams, nor what is sent.
Invariant: an upstream that one configuration names is opened once.
Where it sits: config -> here -> send/; daemon.py and change.py ask.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import NamedTuple

from kdaemon.base.memory import ByteBudget
from kdaemon.config import Config, UpstreamConfig
from kdaemon.door.dry_runs import DRY_RUNS_MAX
from kdaemon.send.control import ControlCalls, ControlSettings, calls_per_second
from kdaemon.send.discovery import Discovery
from kdaemon.send.late import LateClient, Libraries
from kdaemon.send.relay import CALLS_MAX, Relay
from kdaemon.send.settings import ClientSettings
from kdaemon.streams.upstream import Reach
from kdaemon.system import SystemDice

log = logging.getLogger("kdaemon")


class Reached(NamedTuple):
    """Everything that calls one upstream."""

    client: LateClient
    control: ControlCalls
    relay: Relay
    reach: Reach

    async def aclose(self) -> None:
        """Ends all calls to it."""
        await self.relay.aclose()
        await self.control.aclose()
        await self.client.aclose()


class Upstreams:
    """The upstreams of one daemon, by their names."""

    def __init__(
        self,
        dice: SystemDice,
        memory: ByteBudget,
        libraries: Libraries,
        *,
        is_anonymous: bool,
    ) -> None:
        """`memory`: for answers that are passed on. `libraries`: calls wait until they are loaded.
        `is_anonymous`: the services are embedded ones, so no credentials are looked for.
        """
        self._dice = dice
        self._memory = memory
        self._is_anonymous = is_anonymous
        self._libraries = libraries
        self._reached: dict[str, Reached] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.relays: dict[str, Relay] = {}  # of the upstreams in the present configuration

    def open(self, config: Config, names: Iterable[str]) -> dict[str, Reached]:
        """Makes the callers of each of these upstreams; none is called yet. The caller of this
        method closes them, or gives them to `adopt`.
        """
        return {name: self._open(config, config.upstream(name)) for name in names}

    def _open(self, config: Config, upstream: UpstreamConfig) -> Reached:
        client = LateClient(self._settings(config, upstream), self._libraries)
        service = upstream.traits
        rate = calls_per_second(config.worker_count, is_embedded=self._is_anonymous)
        control = ControlCalls(client.call, ControlSettings(service, rate), self._dice)
        allowed, turn = config.listen.operations_passed_on, control.turn_for_client
        relay = Relay(client.pass_on, turn, service, self._memory, allowed)
        return Reached(client, control, relay, Reach(client, Discovery(control.ask, service)))

    def adopt(self, reached: dict[str, Reached]) -> None:
        """Uses these upstreams from now on. An open one of the same name is closed: an earlier
        configuration left it out, and a later one has it again.
        """
        self.close_left(reached.keys())
        self._reached |= reached
        self.relays |= {name: each.relay for name, each in reached.items()}

    def take_config(self, new: Config, gone: Iterable[str]) -> None:
        """Takes a configuration whose new upstreams are adopted. `gone`: upstreams that it has no
        more; these are still called until their records are delivered.
        """
        for name in gone:
            del self.relays[name]
        for name in new.upstream_names:
            settings = self._settings(new, new.upstream(name))
            reached = self._reached[name]
            reached.client.take_limits(settings)
            reached.relay.take_operations(new.listen.operations_passed_on)

    def close_left(self, names: Collection[str]) -> None:
        """Closes the open upstreams of these names: nothing needs them any more."""
        for name in names & self._reached.keys():
            closing = asyncio.get_running_loop().create_task(self._reached.pop(name).aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            text = "an upstream that the configuration has no more is closed"
            log.info(text, extra={"fields": {"upstream": name}})

    async def aclose(self) -> None:
        """Ends all calls, also those to upstreams that were left."""
        await asyncio.gather(*(each.aclose() for each in self._reached.values()), *self._closing)

    def _settings(self, config: Config, upstream: UpstreamConfig) -> ClientSettings:
        return client_settings(config, upstream, is_anonymous=self._is_anonymous)


def upstream_connections_max(config: Config) -> int:
    """How many connections all upstreams together may use."""
    return sum(_pool_size(config, config.upstream(name)) for name in config.upstream_names)


def _pool_size(config: Config, upstream: UpstreamConfig) -> int:
    """As configured; otherwise so many that no stream waits for a connection because other streams'
    calls, or dry runs, use all.
    """
    if upstream.connections_max:
        return upstream.connections_max
    streams = (config.default_of(upstream.name), *config.listed_of(upstream.name).values())
    calls_max = max(each.in_flight_max for each in streams)
    # One more for each stream asks for its shards.
    # Both kinds of calls that are passed on (looks, reads) may use CALLS_MAX connections.
    return (calls_max + 1) * config.streams_max + DRY_RUNS_MAX + 2 * CALLS_MAX


def client_settings(
    config: Config, upstream: UpstreamConfig, *, is_anonymous: bool
) -> ClientSettings:
    """The settings of the client of an upstream, from its configuration; times in seconds."""
    is_on = {"auto": None, "on": True, "off": False}
    return ClientSettings(
        connections_max=_pool_size(config, upstream),
        service=upstream.traits,
        region=upstream.region or None,
        endpoint_url=upstream.endpoint_url or None,
        profile=upstream.profile or None,
        account_id=upstream.account_id or None,
        connect_timeout_s=upstream.connect_timeout_ms / 1000,
        read_timeout_s=upstream.read_timeout_ms / 1000,
        call_timeout_s=upstream.call_timeout_ms / 1000,
        is_anonymous=is_anonymous,
        name=upstream.name,
        role_arn=upstream.role_arn or None,
        role_external_id=upstream.role_external_id or None,
        role_session_name=upstream.role_session_name or None,
        use_fips=is_on[upstream.fips],
        use_dualstack=is_on[upstream.dual_stack],
        account_id_endpoint_mode=_unless_auto(upstream.account_endpoints),
        proxy_url=_unless_auto(upstream.proxy_url),
        iam_token_file=upstream.iam_token_file or None,
        iam_token_url=upstream.iam_token_url or None,
        ca_bundle=upstream.ca_file or None,
    )


def _unless_auto(text: str) -> str | None:
    return None if text == "auto" else text
