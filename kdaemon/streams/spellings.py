"""What the spellings of streams mean, as far as that can be told without opening a stream.

A spelling leads to an upstream (`upstreams.py`), and means an identity there (`identity.py`), as
far as the upstream's account is known. From that follows which spellings mean one stream, by which
names a right to the stream may be written, under which settings it is, and whether records for it
are taken at all. Knows no engine, and not which streams are open.
Invariant: nothing changes by asking: no stream is opened, and no account is asked for.
Where it sits: `registry.py` has one, and opens streams by it; the doors and the spool ask it about
streams that need not be open.
"""

from collections.abc import Iterable
from dataclasses import replace

from kdaemon.base.counters import RefuseReason
from kdaemon.base.endpoint import region_of_endpoint
from kdaemon.base.names import DEFAULT_UPSTREAM, Qualified, arn_of, parse_arn, partition_problem
from kdaemon.base.refused import Refused
from kdaemon.base.service import Service
from kdaemon.config import StreamConfig
from kdaemon.streams.identity import Identity
from kdaemon.streams.upstream import Upstream
from kdaemon.streams.upstreams import Place, Upstreams


class Spellings:
    """By the configuration that `upstreams` has, and by what was learnt of accounts."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams

    def place(self, spelling: str) -> Qualified | Refused:
        """The upstream of a client's spelling of a stream, and the name that this upstream has for
        the stream.
        """
        place = self._upstreams.place(spelling)
        return place if isinstance(place, Refused) else Qualified(place.upstream.name, place.name)

    def identity(self, spelling: str, *, is_certain: bool = True) -> Identity | None:
        """The stream that a spelling means. None: there can be no such stream. `is_certain`: False:
        as `Identities.widest`.
        """
        place = self._upstreams.place(spelling)
        if isinstance(place, Refused):
            return None
        identities = place.upstream.identities
        return identities.of(place.name) if is_certain else identities.widest(place.name)

    def is_same(self, spelling: str, other: str) -> bool:
        """Whether two spellings certainly mean one stream."""
        identity = self.identity(spelling)
        return identity is not None and identity == self.identity(other)

    def are_distinct(self, spellings: Iterable[str]) -> bool:
        """Whether no two of these spellings mean, or may mean, one stream. There may be hundreds of
        spellings, from a client that names whatever it likes.
        """
        found = (self.identity(each, is_certain=False) for each in spellings)
        identities = [each for each in found if each is not None]
        return len(set(identities)) == len(identities)

    # Rights

    def names(self, spelling: str, *, is_certain: bool) -> tuple[str, ...]:
        """All names by which a right to this stream may be written: its ARN, its name in the
        configuration, `@UPSTREAM/NAME`; and the name alone, where that means no other stream.
        Empty: it can be no stream. `is_certain`: an ARN that may be another account's stands for no
        name.
        """
        place = self._upstreams.place(spelling)
        meant = self.identity(spelling, is_certain=is_certain)
        if isinstance(place, Refused) or meant is None:
            return ()
        upstream = place.upstream
        identities = upstream.identities
        found = []
        for name in identities.names(place.name, is_certain=is_certain):
            is_arn = parse_arn(name) is not None
            is_plain = is_arn or self._is_plain(name, upstream)
            if is_plain:
                found.append(name)
            if not is_arn and not (is_plain and upstream.name == DEFAULT_UPSTREAM):
                found.append(f"@{upstream.name}/{name}")
        listed = identities.listed(meant)
        if listed is not None:
            found.append(listed.name)
        return tuple(dict.fromkeys(found))

    def _is_plain(self, name: str, upstream: Upstream) -> bool:
        """Whether this name alone means, from a client, this upstream's stream."""
        meant = self._upstreams.place(name)
        return isinstance(meant, Place) and meant.upstream is upstream and meant.name == name

    # What the configuration says

    @property
    def accept_unlisted(self) -> bool:
        """Whether records are taken for streams that the configuration does not name."""
        return self._upstreams.config.accept_unlisted

    def config_of(self, spelling: str) -> StreamConfig:
        """The settings of the stream that this spelling means; those of [default] if there can be
        no such stream.
        """
        place, identity = self._upstreams.place(spelling), self.identity(spelling)
        if isinstance(place, Refused) or identity is None:
            return self._upstreams.config.default
        return self.settings(place.upstream, identity)

    def settings(self, upstream: Upstream, identity: Identity) -> StreamConfig:
        """The settings of a stream: its own if it is listed, otherwise those of [default]. An ARN
        that may be the listed stream of the same name gets that stream's settings, so that it keeps
        that stream's promises and order; but no aggregates, because another account's readers may
        not take them apart.
        """
        listed = upstream.identities.listed(identity)
        if listed is not None:
            return listed
        default = self._upstreams.config.default_of(upstream.name)
        default = replace(default, name=identity.name)
        if not identity.account:
            return default
        arn = arn_of(identity.name, identity.account, identity.region)
        twin = upstream.identities.twin(arn)
        listed = None if twin is None else upstream.identities.listed(twin)
        if listed is not None:
            return replace(listed, arn=arn.text, aggregation="none")
        return replace(default, arn=arn.text)

    def refusal_to_look(self, spelling: str) -> Refused | None:
        """Why no client may ask the service here for the stream that this name, ARN or path means;
        None: the service may be asked. Whether an ARN is that of a listed stream, where only the
        account would tell, is left to the service.
        """
        place = self._upstreams.place(spelling)
        if isinstance(place, Refused):
            return place
        upstream, name = place
        identities = upstream.identities
        identity = identities.of(name)
        if identity is None:
            return no_name(name, upstream.service)
        here = region_of_endpoint(upstream.config.endpoint_url)
        if here is not None and identity.region not in {"", here}:
            text = f"The stream is of {identity.region}, and endpoint_url is an endpoint of {here}."
            code = "InvalidArgumentException"
            return Refused(RefuseReason.INVALID, code, text, is_permanent=True)
        is_listed = any(
            each and identities.listed(each) for each in (identity, identities.widest(name))
        )
        return None if is_listed or self.accept_unlisted else not_listed(upstream, identity)


def not_listed(upstream: Upstream, identity: Identity) -> Refused:
    """Refusal of a stream that the configuration would have to name."""
    text = (
        f"Stream {identity.name} is not listed in kdaemon's configuration: add [streams.NAME],"
        " or set accept_unlisted = true."
    )
    if identity.account:
        arn = arn_of(identity.name, identity.account, identity.region)
        text = f"Stream {arn.text} is not listed in kdaemon's configuration: list it by its ARN"
        text += ", or set accept_unlisted = true."
        if upstream.identities.twin(arn) is not None:
            text += " If it is kdaemon's own account's, set account_id, which is not known."
    return Refused(RefuseReason.UNLISTED, "ResourceNotFoundException", text, is_permanent=True)


def no_name(spelling: str, service: Service) -> Refused:
    """Refusal of what cannot be the name of a stream at this service."""
    expected = (
        "1-128 letters, digits, `_`, `.` and `-`, or an ARN" if service.has_arns else "a path"
    )
    problem = partition_problem(spelling) if service.has_arns else None
    text = f"expected {expected}" if problem is None else f"this ARN {problem}"
    return Refused(
        RefuseReason.UNLISTED,
        "ValidationException",
        f"This is no name or ARN of a stream ({len(spelling)} characters; not shown): {text}.",
        is_permanent=True,
    )
