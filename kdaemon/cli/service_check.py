"""`kdaemon check --service`: asks each upstream, with the daemon's credentials, whether delivery
would work.

Composed as the daemon is: the same client, control calls and discovery, without an engine. Prints
nothing: `findings.py` has the words, the command prints them.
Invariant: no record is ever written. AWS is asked by DryRun. A stand-in for AWS may not know
DryRun, so it is asked with a hash key that no service takes. Yandex is not asked at all.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.record import Record
from kdaemon.cli.findings import (
    Finding,
    Level,
    Teller,
    of_caller,
    of_clock,
    of_denied,
    of_description,
    of_write,
    of_write_at_yandex,
)
from kdaemon.config import Config, StreamConfig, UpstreamConfig
from kdaemon.daemon.reach import client_settings
from kdaemon.observe.remedies import remedy
from kdaemon.send.client import ServiceClient
from kdaemon.send.control import ControlCalls, ControlSettings, calls_per_second
from kdaemon.send.discovery import Discovery
from kdaemon.send.endpoint_rules import AWS_DOMAINS
from kdaemon.streams.laid_out import engine_settings
from kdaemon.system import SystemClock, SystemDice

ATTEMPTS_MAX: Final = 2  # attempts of a control call, because a person waits; ours, 2026-11-28
ASKED_ABOUT: Final = Record(b"kdaemon check", "kdaemon-check")
UNWRITABLE: Final = Record(b"kdaemon check", "kdaemon-check", str(2**128))
"""Its hash key is one above the highest, so that every service that checks hash keys refuses the
record."""

_ON_THE_WAY: Final = frozenset(
    {
        *(Trouble.DNS, Trouble.CONNECT, Trouble.CONNECT_TIMEOUT, Trouble.CONNECTION_LOST),
        *(Trouble.READ_TIMEOUT, Trouble.CALL_TIMEOUT),
    }
)
_OF_ONE_STREAM: Final = frozenset({None, Trouble.UNREADABLE, Trouble.BUSY})
"""Troubles after which another stream may still be reached; None: the service itself answered with
an error."""


async def look(config: Config, streams: Sequence[str] = ()) -> list[Finding]:
    """All findings, upstream by upstream. `streams`: names of streams beside the listed ones, of
    the upstream that [default] names.
    """
    per_upstream = await asyncio.gather(
        *(_look_at(config, name, streams) for name in config.upstream_names)
    )
    return [finding for findings in per_upstream for finding in findings]


async def _look_at(config: Config, name: str, more: Sequence[str]) -> list[Finding]:
    upstream = config.upstream(name)
    streams = list(config.listed_of(name).values())
    if name == config.default.upstream:
        known = set(config.streams)
        streams += [replace(config.default, name=each) for each in more if each not in known]
    async with AsyncExitStack() as stack:
        look = await _Look.open(config, upstream, stack)
        return [finding async for finding in look.all(streams)]


@dataclass(slots=True)
class _Seen:
    """What the answers' heads tell: which host answered, and how far its clock is from ours."""

    host: str = ""
    skews_s: list[float] = field(default_factory=list)

    def trace(self) -> aiohttp.TraceConfig:
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._begin)
        trace.on_request_end.append(self._end)
        return trace

    async def _begin(self, _: Any, context: SimpleNamespace, __: Any) -> None:
        context.began_s = SystemClock.wall_seconds()

    async def _end(
        self, _: Any, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        self.host = params.url.host or ""
        told = params.response.headers.get("Date", "")
        try:
            theirs_s = parsedate_to_datetime(told).timestamp()
        except (ValueError, OverflowError):
            return
        middle_s = (context.began_s + SystemClock.wall_seconds()) / 2
        self.skews_s.append(middle_s - (theirs_s + 0.5))  # the header has whole seconds

    @property
    def skew_s(self) -> float | None:
        """The smallest difference of all answers: a slow answer makes it larger, never smaller."""
        return min(self.skews_s, key=abs, default=None)


@dataclass(slots=True)
class _Look:
    """The check of one upstream. `denied`: descriptions of the last stream that kdaemon has no
    right to ask for.
    """

    upstream: UpstreamConfig
    client: ServiceClient
    control: ControlCalls
    seen: _Seen
    denied: dict[str, ServiceError] = field(default_factory=dict)

    @classmethod
    async def open(cls, config: Config, upstream: UpstreamConfig, stack: AsyncExitStack) -> "_Look":
        """Opens a client like the daemon's. `stack` closes it."""
        seen = _Seen()
        settings = client_settings(config, upstream, is_anonymous=False)
        client = await ServiceClient.open(settings, [seen.trace()])
        stack.push_async_callback(client.aclose)
        how = ControlSettings(upstream.traits, calls_per_second(), ATTEMPTS_MAX)
        control = ControlCalls(client.call, how, SystemDice())
        stack.push_async_callback(control.aclose)
        return cls(upstream, client, control, seen)

    async def all(self, streams: Sequence[StreamConfig]) -> AsyncIterator[Finding]:
        """All findings about this upstream: its credentials, its streams, the clock."""
        teller = Teller(self.upstream.name)
        is_lost = False
        for finding in await self._caller(teller):
            is_lost = is_lost or finding.level is Level.PROBLEM
            yield finding
        at, giver = self.client.endpoint
        if giver:
            yield teller.tell(Level.OK, "endpoint", f"calls go to {at}, by {giver}")
        if not streams:
            text = "none is listed for it, so that no right was tried"
            yield teller.tell(Level.NOTE, "streams", text, "list them, or name one: --stream NAME")
        elif is_lost:
            yield teller.tell(Level.NOTE, "streams", "not asked about, for that reason")
        else:
            async for finding in self._streams(teller, streams):
                yield finding
        for finding in of_clock(teller, self.seen.skew_s):
            yield finding

    async def _streams(
        self, teller: Teller, streams: Sequence[StreamConfig]
    ) -> AsyncIterator[Finding]:
        """Checks stream after stream, until the service cannot be reached."""
        for number, stream in enumerate(streams):
            try:
                async for finding in self._stream(stream):
                    yield finding
            except ServiceError as error:
                yield Teller(self.upstream.name, stream.name).failed("describe", error)
                left = len(streams) - number - 1
                if left and error.trouble not in _OF_ONE_STREAM:
                    text = f"{left} more are not asked about: the service is not reached"
                    yield teller.tell(Level.NOTE, "streams", text)
                    return

    async def _caller(self, teller: Teller) -> list[Finding]:
        try:
            caller = await self.client.caller()
        except ServiceError as error:
            if error.trouble in _ON_THE_WAY and error.message.startswith("STS: "):
                return [teller.failed("credentials", error, Level.WARNING)]
            finding = teller.failed("credentials", error)
            if self.upstream.role_arn and remedy(error.code) == remedy("AccessDenied"):
                do = (
                    f"allow sts:AssumeRole on {self.upstream.role_arn}, and let that role's trust"
                    " policy name who calls, with role_external_id if it asks for one"
                )
                finding = teller.tell(Level.PROBLEM, "credentials", finding.text, do)
            return [finding]
        return list(of_caller(teller, self.upstream, caller))

    async def _stream(self, stream: StreamConfig) -> AsyncIterator[Finding]:
        """Raises ServiceError if the service tells nothing of the stream."""
        service = self.upstream.traits
        teller = Teller(self.upstream.name, stream.name)
        called = stream.upstream_name or stream.name
        target = StreamTarget(called, stream.arn or None, is_listed=True, upstream=stream.upstream)
        self.denied.clear()
        found = await Discovery(self._ask, service).describe(target)
        for operation, error in self.denied.items():
            yield of_denied(teller, operation, error)
        if not self.denied:
            yield teller.tell(Level.OK, "describe", "the stream is there, and may be described")
        settings = engine_settings(stream, service)
        for finding in of_description(teller, stream, settings, self.upstream, found):
            yield finding
        if service.answers_dry_run:
            is_of_aws = self.seen.host.endswith(AWS_DOMAINS)
            asked_about = ASKED_ABOUT if is_of_aws else UNWRITABLE
            answer = await self.client.dry_run(target, [asked_about])
            yield of_write(teller, answer, is_of_aws=is_of_aws)
        else:
            yield of_write_at_yandex(teller)

    async def _ask(
        self, operation: str, payload: dict[str, object], target: StreamTarget
    ) -> dict[str, Any]:
        """`ControlCalls.ask`; notes a refusal in `denied`, because discovery does without."""
        try:
            return await self.control.ask(operation, payload, target)
        except ServiceError as error:
            self.denied[operation] = error.kept()
            raise
