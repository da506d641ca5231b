"""One upstream, as the registry of streams has it: how it is called, and which account it is called
as.

An ARN means the stream of the same name only once the account is known. Until then requests by such
ARNs wait behind the earlier requests of that stream (`owner.py` asks, `inquiry.py` has those who
wait), so that no request overtakes an earlier one. An upstream that the configuration gives an
account and a region has a known account from the start, and nobody waits for it.

Knows spellings, accounts and the streams in which requests wait; no record, and no other upstream.
Invariant: a wait that was begun is ended once the account is known, or no source tells it in time.
Where it sits: `upstreams.py` has all of them; `registry.py` opens streams on them.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from kdaemon.base.counting import StreamCounters
from kdaemon.base.description import Caller
from kdaemon.base.endpoint import Endpoint
from kdaemon.base.memory import ByteBudget
from kdaemon.base.names import Arn
from kdaemon.config import StreamConfig, UpstreamConfig
from kdaemon.send.driver import Client, Describer
from kdaemon.streams.identity import Identities, Identity
from kdaemon.streams.owner import Owner
from kdaemon.streams.stream import Stream

log = logging.getLogger("kdaemon.streams")


class Reach(NamedTuple):
    """How one service is called. `client`: puts records there; `discovery`: asks the service for
    its streams.
    """

    client: Client
    discovery: Describer


class Budgets(NamedTuple):
    """How much memory the streams of one upstream may have. `all`: all of them; `unlisted`: the
    unlisted ones.
    """

    all: ByteBudget
    unlisted: ByteBudget


class Upstream:
    """One upstream of the daemon. `closed`: the counts of its streams that are closed now."""

    def __init__(
        self,
        config: UpstreamConfig,
        listed: list[StreamConfig],
        reach: Reach,
        budgets: Budgets,
        forget: Callable[[], object],
        *,
        may_assume: bool,
    ) -> None:
        """`forget`: makes the registry forget which streams spellings mean, because that has
        changed. `may_assume`: beside a stand-in for AWS, the account that a client names is taken
        for ours.
        """
        self.config = config
        self.name = config.name
        self.service = config.traits
        self.client, self.discovery = reach
        self.budgets = budgets
        self.identities = Identities(config, listed)
        self.closed = StreamCounters()
        self._forget = forget
        self._may_assume = may_assume
        self._owner = Owner(
            self.client.caller,
            self._caller_told,
            self._end_waits,
            self._assume,
            lambda: self.client.is_ready,
        )
        self._waited_in: dict[Stream, None] = {}  # streams where ARNs wait for the account
        self._first_arn: Arn | None = None  # by which a client called a stream that may be ours
        self._keys_account = ""  # of the keys in use, as far as they tell it
        self.client.on_new_keys = self._new_keys
        self.learn(Caller(config.account))

    def take_config(
        self, config: UpstreamConfig, identities: Identities, budgets: Budgets, *, may_assume: bool
    ) -> None:
        """Another configuration of the same upstream, with the identities of its spellings."""
        self.config, self.identities, self.budgets = config, identities, budgets
        self._may_assume = may_assume

    @property
    def account(self) -> str:
        """The account that the upstream is called as, as far as it is known; "": it is not known,
        or the service has no accounts.
        """
        return self.identities.account if self.service.has_arns else ""

    @property
    def region(self) -> str:
        """The configured region; where none is, the one that the service or the credentials told;
        "": it is not known.
        """
        return self.config.home_region or self.identities.region or self.service.region or ""

    @property
    def endpoint(self) -> Endpoint:
        """Where calls go, if that is not the address that the service has for the region."""
        configured = self.config.endpoint_url
        return Endpoint(configured) if configured else self.client.endpoint

    @property
    def credentials_end_s(self) -> float | None:
        """When the credentials for its calls end, unless they are renewed, in seconds since 1970;
        None: they do not end, or that is not told.
        """
        return self.client.credentials_end_s

    def twin(self, arn: Arn) -> Identity | None:
        """The stream with whose requests one by this ARN must wait; the account is then asked for,
        which tells whether this stream is meant. None: the request need not wait.
        """
        if self.identities.may_be_ours(arn):
            self._owner.is_used = True
        twin = self.identities.twin(arn)
        if twin is None or not self._owner.ask():
            return None
        self._first_arn = self._first_arn or arn
        return twin

    def begin_wait(self, stream: Stream) -> None:
        """Requests by an ARN wait with those of this stream: until the account is known, or no
        source tells it.
        """
        stream.inquiry.begin_account()
        self._waited_in[stream] = None

    def look_for_silence(self) -> None:
        """Ends the wait for the account if no source is left that could tell it."""
        if not (self._owner.is_asking and self._owner.has_answered):
            return
        if all(stream.inquiry.is_heard for stream in self._waited_in if stream.inquiry.has_arns):
            self._owner.give_up()

    def close(self, stream: Stream) -> None:
        """The stream is in use no more; its counts are kept."""
        self._waited_in.pop(stream, None)
        self.closed.add(stream.counters)

    async def aclose(self) -> None:
        """Ends the question for the account."""
        await self._owner.aclose()

    # Whose the calls are

    def _new_keys(self, caller: Caller) -> None:
        """The calls are signed with other keys. The account that they tell counts as news only if
        it differs from that of the keys before: an account that the service told weighs more than a
        variable.
        """
        is_news = caller.account != self._keys_account
        self._keys_account = caller.account
        if caller.account:
            self.learn(caller if is_news else Caller())
        elif self._owner.doubt():
            self.identities.forget()
            self._forget()
            self.learn(Caller(self.config.account, caller.region))

    def _caller_told(self, caller: Caller) -> None:
        """The credentials and STS told what they know."""
        self.learn(caller)
        self.look_for_silence()

    def learn(self, caller: Caller) -> None:
        """Learns the upstream's own account and region, as far as `caller` has them."""
        if self.identities.learn(caller.account, caller.region):
            self._forget()
            wanted = self.config.account_id
            if wanted and caller.account not in {"", wanted}:
                fields = {"upstream": self.name, "account_id": wanted, "account": caller.account}
                text = "account_id is wrong: kdaemon calls as another account"
                log.error(text, extra={"fields": fields})
        if self.identities.is_known:
            self._owner.told()

    def _assume(self) -> bool:
        """Beside a stand-in that describes nothing, takes the account that a client names for ours,
        so that a stream keeps one pace and one order. Not where only listed streams may be written
        to, for no client adds to those.
        """
        arn = self._first_arn
        if arn is None or not self._may_assume:
            return False
        text = (
            "the service is a stand-in for AWS, and nobody tells kdaemon's own account: the account"
            " of the ARN by which a client calls a stream is taken for it; set account_id if it is"
            " another"
        )
        log.warning(text, extra={"fields": {"account": arn.account, "arn": arn.text}})
        self.learn(Caller(arn.account, arn.region))
        return True

    def _end_waits(self) -> None:
        streams, self._waited_in = self._waited_in, {}
        for stream in streams:
            if stream.inquiry.has_arns:
                stream.inquiry.end_account()
