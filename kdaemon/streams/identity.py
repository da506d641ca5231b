"""Which stream of an upstream a name, an ARN or a path means: one identity, known before an engine
exists. Pure.

A stream has one engine, and so one pace and one order, whatever its clients call it by.
`upstreams.py` decides before which upstream the stream belongs to, and what the upstream calls it.

A name means the stream of the upstream's own account and region. An ARN means the same stream only
where both are known and are the ARN's. Until then an ARN is a stream of its own: it is sent by its
ARN, so that the service judges whose stream it is; `twin` says which stream it may turn out to be.
A stream that is listed by its ARN is that ARN's stream, whatever is learnt later, and its name
means the same stream. At Yandex a path names the database, so there is nothing to learn: a short
name stands below the database that the endpoint's path names, and any other path is another stream.
Knows names, accounts and listed streams; no engine and no record.
Invariant: under what is known at one moment, a spelling has one identity.
Where it sits: `upstream.py` has one `Identities`; `registry.py` asks it.
"""

from collections.abc import Container, Iterable
from copy import copy
from dataclasses import dataclass
from urllib.parse import urlsplit

from kdaemon.base.names import (
    DEFAULT_UPSTREAM,
    Arn,
    arn_of,
    full_path,
    is_path,
    is_stream_name,
    parse_arn,
)
from kdaemon.config import StreamConfig, UpstreamConfig


@dataclass(frozen=True, slots=True)
class Identity:
    """One stream. `account` and `region`: of its ARN; empty where it is sent by its name, and so is
    the upstream's own. `name`: at Yandex a path.
    """

    name: str
    account: str = ""
    region: str = ""
    upstream: str = DEFAULT_UPSTREAM


class Identities:
    """Turns spellings into identities of one upstream. `account`, `region`: the upstream's own, as
    far as `learn` told them; "": not known.
    """

    def __init__(self, upstream: UpstreamConfig, listed: Iterable[StreamConfig]) -> None:
        """`listed`: the streams of this upstream that the configuration names."""
        self._upstream = upstream.name
        self._has_arns = upstream.traits.has_arns
        self._database = urlsplit(upstream.endpoint_url).path.strip("/")
        self.account = ""
        self._home_region = self.region = upstream.home_region
        self.list(listed)

    def list(self, listed: Iterable[StreamConfig]) -> None:
        """From now on the configuration names these streams."""
        self._by_name = {each.upstream_name or each.name: each for each in listed}
        self._listed: dict[Identity, StreamConfig] = {}
        for name, stream in self._by_name.items():
            meant = self.of(name)
            assert meant is not None, "a loaded Config lists only what can be a stream"
            self._listed[meant] = stream

    def relisted(self, listed: Iterable[StreamConfig]) -> "Identities":
        """A copy, with all that was learnt, for a configuration that names other streams."""
        other = copy(self)
        other.list(listed)
        return other

    @property
    def is_known(self) -> bool:
        """Whether the upstream's own account and region are known."""
        return bool(self.account and self.region)

    def of(self, spelling: str) -> Identity | None:
        """The stream that a spelling means. None: the service can have no stream of this name; then
        the name must not become a label, a log line or an engine, whoever asks for it.
        """
        if not self._has_arns:
            is_one = is_path(spelling) and spelling.strip("/ ")
            return self._own(full_path(spelling, self._database)) if is_one else None
        if is_stream_name(spelling):
            return self._of_name(spelling)
        arn = parse_arn(spelling)
        if arn is None:
            return None
        is_ours = self.is_known and self.may_be_ours(arn)
        return self._own(arn.name) if is_ours else self._of_arn(arn)

    def names(self, spelling: str, *, is_certain: bool) -> tuple[str, ...]:
        """All names by which the upstream and the configuration call this stream; empty: the
        service can have no such stream. A name stands only for a stream of the upstream's own
        account, or for a listed one; for an ARN whose account may or may not be the upstream's,
        only if `is_certain` is False.
        """
        meant = self.of(spelling) if is_certain else self.widest(spelling)
        if meant is None:
            return ()
        if not self._has_arns:
            below = f"/{self._database}/"
            is_below = bool(self._database) and meant.name.startswith(below)
            return (meant.name, meant.name.removeprefix(below)) if is_below else (meant.name,)
        listed = self._listed.get(meant)
        if meant.account:
            arn = spelling if listed is None or not listed.arn else listed.arn
            return (arn,) if listed is None else (listed.name, arn)
        if parse_arn(spelling) is not None:
            return meant.name, spelling
        if self.is_known:
            return meant.name, arn_of(meant.name, self.account, self.region).text
        return (meant.name,)

    def twin(self, arn: Arn) -> Identity | None:
        """The upstream's own stream that this ARN may mean; None: the ARN cannot mean it, or what
        it means is known.
        """
        return self._own(arn.name) if not self.is_known and self.may_be_ours(arn) else None

    def widest(self, spelling: str) -> Identity | None:
        """As `of`, except that an ARN that may be a stream of the upstream's own is that stream."""
        arn = parse_arn(spelling) if self._has_arns else None
        twin = None if arn is None else self.twin(arn)
        return twin or self.of(spelling)

    def may_be_ours(self, arn: Arn) -> bool:
        """Whether the ARN may be a stream of the upstream's own, as far as is known and as the
        listed streams tell.
        """
        is_here = arn.region == self.region or not self.region
        is_here = is_here and (arn.account == self.account or not self.account)
        is_listed = self._of_arn(arn) in self._listed
        return is_here and not is_listed and not self._of_name(arn.name).account

    def may_be_same(self, one: Identity, other: Identity) -> bool:
        """Whether two identities, one by name and one by ARN, may be one stream, as far as is
        known.
        """
        accounts = {one.account or self.account, other.account or self.account} - {""}
        regions = {one.region or self.region, other.region or self.region} - {""}
        is_alike = len(accounts) < 2 and len(regions) < 2
        return is_alike and (one.name, one.upstream) == (other.name, other.upstream)

    def stored(self, name: str) -> Identity | None:
        """The stream of a name in the spool: records that were stored by an ARN are sent by this
        ARN, and those stored by a name by the name, whatever was learnt or listed since.
        """
        if not self._has_arns:
            return self.of(name)
        arn = parse_arn(name)
        if arn is not None:
            return self._of_arn(arn)
        return self._own(name) if is_stream_name(name) else None

    def ordered_twin(self, identity: Identity, opened: Container[Identity]) -> StreamConfig | None:
        """The settings of another listed identity, not yet `opened`, that keeps order and may be
        this very stream; None: there is none.
        """
        others = (
            table
            for each, table in self._listed.items()
            if table.ordering != "none"
            and each != identity
            and each not in opened
            and self.may_be_same(each, identity)
        )
        return next(others, None)

    def listed(self, identity: Identity) -> StreamConfig | None:
        """The settings of [streams.NAME], if there is one for this stream."""
        return self._listed.get(identity)

    def learn(self, account: str, region: str) -> bool:
        """Learns the upstream's own account and region; "" where one is not known. Returns True if
        that is news: then ARNs may mean other streams than before.
        """
        before = self.account, self.region
        self.account = account or self.account
        self.region = region or self.region
        return (self.account, self.region) != before

    def forget(self) -> None:
        """All that was learnt was of other keys."""
        self.account, self.region = "", self._home_region

    def _own(self, name: str) -> Identity:
        return Identity(name, upstream=self._upstream)

    def _of_name(self, name: str) -> Identity:
        listed = self._by_name.get(name)
        arn = parse_arn(listed.arn) if listed is not None and listed.arn else None
        return self._own(name) if arn is None else self._of_arn(arn)

    def _of_arn(self, arn: Arn) -> Identity:
        return Identity(arn.name, arn.account, arn.region, self._upstream)
