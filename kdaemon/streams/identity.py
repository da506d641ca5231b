"""Which stream a name, an ARN or a path means: one identity, known before an engine exists.

A stream has one engine, and so one pace and one order, whatever its clients call it by. Pure.

A name means the stream of the daemon's own account and region. An ARN of this account and region
means the same stream. The daemon learns its account from its credentials, or from the ARN that the
service tells of a stream that was asked for by name. Until then the first account that an ARN names
is taken for the daemon's own (`is_assumed`): two engines for one stream would send twice its quota
and lose its order. At Yandex a short name stands below the database that the endpoint's path names.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from kdaemon.base.names import Arn, is_path, is_stream_name, parse_arn
from kdaemon.config import Config, StreamConfig


@dataclass(frozen=True, slots=True)
class Identity:
    """One stream. `account` and `region`: empty for the daemon's own. `name`: at Yandex a path."""

    name: str
    account: str = ""
    region: str = ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a spelling means. `is_assumed`: nobody knows yet whether the ARN's account is ours."""

    identity: Identity
    is_assumed: bool = False


class Identities:
    """Turns spellings into identities. What it knows of the daemon's account grows by `learn`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._has_arns = config.traits.has_arns
        self._database = urlsplit(config.endpoint_url).path.strip("/")
        self._account = ""
        self._assumed_account = ""  # of the first ARN that was seen while `_account` is not known
        self._region = config.region
        self._listed: dict[Identity, StreamConfig] = {}
        self._list()

    def of(self, spelling: str) -> Meaning | None:
        """None: the service can have no stream of this name. It must then not become a label, a log
        line or an engine, whoever asks for it.
        """
        if not self._has_arns:
            is_one = is_path(spelling) and spelling.strip("/ ")
            return Meaning(Identity(self._path(spelling))) if is_one else None
        if is_stream_name(spelling):
            listed = self._config.streams.get(spelling)
            arn = parse_arn(listed.arn) if listed is not None and listed.arn else None
            return Meaning(Identity(spelling)) if arn is None else self._of_arn(arn)
        arn = parse_arn(spelling)
        return None if arn is None else self._of_arn(arn)

    def listed(self, identity: Identity) -> StreamConfig | None:
        """The settings of [streams.NAME], if there is one for this stream."""
        return self._listed.get(identity)

    def learn(self, account: str, region: str) -> bool:
        """The daemon's own account and region; "" where that is not known. True if that is news:
        what spellings mean may have changed.
        """
        before = self._account, self._region
        self._account = account or self._account
        self._region = region or self._region
        if (self._account, self._region) == before:
            return False
        self._list()
        return True

    def _of_arn(self, arn: Arn) -> Meaning:
        is_here = arn.region == self._region or not self._region
        if is_here and not self._account and not self._assumed_account:
            self._assumed_account = arn.account
        if is_here and arn.account == (self._account or self._assumed_account):
            return Meaning(Identity(arn.name), is_assumed=not (self._account and self._region))
        return Meaning(Identity(arn.name, arn.account, arn.region))

    def _path(self, spelling: str) -> str:
        parts = [part for part in spelling.split("/") if part]
        if not spelling.startswith("/") and self._database:
            parts.insert(0, self._database)
        is_full = spelling.startswith("/") or bool(self._database)
        return ("/" if is_full else "") + "/".join(parts)

    def _list(self) -> None:
        listed: dict[Identity, StreamConfig] = {}
        for name, config in self._config.streams.items():
            meaning = self.of(name)
            assert meaning is not None, "a loaded Config lists only what can be a stream"
            listed[meaning.identity] = config
        self._listed = listed
