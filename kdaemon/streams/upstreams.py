"""Which upstream a spelling belongs to, and what that upstream calls the stream.

A listed stream is called by its table's name, wherever it lives. An ARN belongs to the upstream
with its account and region; a path of Yandex to the upstream whose database it begins with, also
after `@eu/`. Otherwise `@eu/orders` names its upstream itself. Every other spelling belongs to the
upstream that [default] names: also an ARN of an account that no upstream has, for that upstream may
have been given rights to it.

Reads the configuration and nothing that is learnt while the daemon runs, so that a spelling belongs
to one upstream until a reload changes the configuration.
Invariant: the name that the spool has of a stream (`Qualified.text`) leads back to its upstream,
whatever else the configuration calls by that name now.
Where it sits: `spellings.py` and `registry.py` ask it about each spelling.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from kdaemon.base.counters import RefuseReason
from kdaemon.base.names import (
    DEFAULT_UPSTREAM,
    Arn,
    full_path,
    parse_arn,
    parse_qualified,
)
from kdaemon.base.refused import Refused
from kdaemon.config import Config, upstream_of_arn
from kdaemon.streams.laid_out import called
from kdaemon.streams.upstream import Upstream


class Place(NamedTuple):
    """Where a stream is. `name`: what the upstream calls the stream: a name, an ARN or a path."""

    upstream: Upstream
    name: str


class Upstreams:
    """All upstreams of the daemon, the default one first. `gone`: those that a reload took away."""

    def __init__(self, config: Config, upstreams: Mapping[str, Upstream]) -> None:
        self._by_name: Mapping[str, Upstream] = {}
        self.gone: dict[str, Upstream] = {}
        self.take_config(config, upstreams)

    def take_config(self, config: Config, upstreams: Mapping[str, Upstream]) -> None:
        """From now on these are the upstreams. No spelling finds one that is not among them any
        more; their counters and the records that they have still to deliver stay with them.
        """
        self.gone = {each.name: each for each in self if each.name not in upstreams}
        self.config = config
        self._by_name = upstreams
        self._default = upstreams[config.default.upstream]
        self._have_more = len(upstreams) > 1
        self._of_arns = {
            stream.arn: stream.upstream for stream in config.streams.values() if stream.arn
        }
        databases = [
            ("/" + path + "/", upstream)
            for upstream in upstreams.values()
            if not upstream.service.has_arns
            if (path := urlsplit(upstream.config.endpoint_url).path.strip("/"))
        ]
        # A database below another one is looked for before that.
        self._databases = sorted(databases, key=lambda each: -len(each[0]))

    def __iter__(self) -> Iterator[Upstream]:
        """The upstreams of the configuration, and those that a reload took away, whose counters
        stay.
        """
        yield from self._by_name.values()
        yield from self.gone.values()

    def __getitem__(self, name: str) -> Upstream:
        """The upstream of this name; also one that the configuration no longer has."""
        return self._by_name.get(name) or self.gone[name]

    def __contains__(self, name: str) -> bool:
        """Whether the configuration has the upstream."""
        return name in self._by_name

    @property
    def configured(self) -> tuple[Upstream, ...]:
        return tuple(self._by_name.values())

    def place(self, spelling: str) -> Place | Refused:
        """The place of the stream that a client calls by this spelling. Refused: no upstream can
        have such a stream.
        """
        listed = self.config.streams.get(spelling)
        if listed is not None:
            return Place(self._by_name[listed.upstream], called(listed))
        if spelling.startswith("@"):
            place = self.stored(spelling)
            return _no_upstream(spelling) if place is None else self._at_home(place)
        arn = parse_arn(spelling)
        if arn is not None:
            return self._of_arn(arn)
        if self._have_more and "/" in spelling:
            return Place(self._of_path(spelling), spelling)
        return Place(self._default, spelling)

    def stored(self, name: str) -> Place | None:
        """The place of a stream, from the name that the spool has or from `@UPSTREAM/NAME`. None:
        the configuration has no such upstream.
        """
        qualified = parse_qualified(name)
        upstream = self._by_name.get(qualified.upstream)
        is_cut = upstream is not None and not qualified.name.startswith("@")
        return Place(upstream, qualified.name) if upstream is not None and is_cut else None

    def _at_home(self, place: Place) -> Place:
        """A whole ARN or path belongs to the upstream that has its account or database, even if the
        spelling names another upstream. Otherwise one stream would have two engines, and a right to
        an upstream would be a right to every stream that its credentials may write to.
        """
        upstream, name = place
        if not upstream.service.has_arns:
            home = self._home_of_path(name, upstream) if name.startswith("/") else None
        else:
            arn = parse_arn(name)
            home = None if arn is None else self._home_of_arn(arn, upstream)
        return Place(home or upstream, name)

    def _home_of_arn(self, arn: Arn, named: Upstream | None = None) -> Upstream | None:
        """The upstream that a table names for the ARN, or one that has its account and region:
        `named`, if that has them, otherwise the first.
        """
        candidates = self.configured if named is None else (named, *self.configured)
        configs = (each.config for each in candidates)
        name = self._of_arns.get(arn.text) or upstream_of_arn(arn, configs)
        return None if name is None else self._by_name[name]

    def _home_of_path(self, path: str, named: Upstream | None = None) -> Upstream | None:
        """As `_home_of_arn`, of the upstreams whose database the path is in."""
        path = full_path(path, "")
        homes = [each for database, each in self._databases if path.startswith(database)]
        return named if named in homes else next(iter(homes), None)

    def _of_arn(self, arn: Arn) -> Place | Refused:
        upstream = self._home_of_arn(arn) or self._default
        if not upstream.service.has_arns and self._have_more:
            text = (
                f"No upstream of kdaemon has the account {arn.account} and the region {arn.region}:"
                " add an [upstreams.NAME] with both."
            )
            code = "ResourceNotFoundException"
            return Refused(RefuseReason.UNLISTED, code, text, is_permanent=True)
        return Place(upstream, arn.text)

    def _of_path(self, path: str) -> Upstream:
        """The upstream of a path. A path from the root names the database; any other path is below
        the database of its upstream.
        """
        home = self._home_of_path(path)
        if home is not None:
            return home
        if not self._default.service.has_arns:
            return self._default
        have_one = [upstream for _, upstream in self._databases]
        have_none = [
            each for each in self.configured if not each.service.has_arns and each not in have_one
        ]
        return have_none[0] if len(have_none) == 1 else self._default


def _no_upstream(spelling: str) -> Refused:
    upstream = parse_qualified(spelling).upstream
    text = f"kdaemon's configuration has no upstream {upstream}: see [upstreams.NAME]."
    if upstream == DEFAULT_UPSTREAM:
        text = 'No stream has a name that begins with "@"; expected @UPSTREAM/NAME.'
    return Refused(RefuseReason.UNLISTED, "ResourceNotFoundException", text, is_permanent=True)
