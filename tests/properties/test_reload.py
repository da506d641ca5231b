"""Whatever is reloaded under load, no record that was taken is lost, repeated, sent to another
stream or out of its order; and a configuration that is refused changes nothing.

The registry of streams over services in memory, and the reload itself: it reads, finds what
changes, and swaps as in the daemon. Records are put between the steps of a swap, too. The services
answer or keep their calls, but never fail one: each record has data of its own and is to arrive
once.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.admission import make_frame
from kdaemon.base.errors import ConfigError
from kdaemon.base.frame import Acknowledge
from kdaemon.base.record import Record
from kdaemon.config import Config
from kdaemon.config.changes import find_changes
from kdaemon.config.load import Loaded, Sources, load_config, load_sources
from kdaemon.daemon.reload import Reload
from kdaemon.observe.notify import Notifier
from kdaemon.observe.reloads import Outcome, Reloads
from kdaemon.streams import Stream, Streams
from tests.kit.clock import HandClock
from tests.kit.depth import examples
from tests.kit.kcl import inner_records
from tests.kit.observing import delivered_by, undelivered_by
from tests.kit.streams import FakeService, make_streams, reaches, turn

EU = "111111111111"
ARN = f"arn:aws:kinesis:eu-central-1:{EU}:stream/a"
SPELLINGS = ("a", "b", "c", "u", "@eu/u", ARN)

# Pieces of which configurations are made: of each line one.
TOP = st.sampled_from(["", "accept_unlisted = false\n", "streams_max = 4\n"])
DEFAULT = st.sampled_from(
    [
        "",
        "linger_ms = 0\n",
        "linger_ms = 700\nbatch_bytes_max = 1100\naggregate_bytes_max = 1024\n",
        "shard_records_per_second = 500\nmax_age_ms = 5000\nbuffer_bytes_max = 8388608\n",
        "deadline_ms = 900\nwhen_full = 'reject'\nin_flight_max = 1\n",
    ]
)
ORDERED = "ordering = 'partition_key'\n"
TABLES = {
    "a": st.sampled_from([None, "", "linger_ms = 3\n", ORDERED, "aggregation = 'kpl'\n"]),
    "b": st.sampled_from(
        [None, ORDERED, ORDERED + "acknowledge = 'accepted'\n", "only_writer = true\n"]
    ),
    "c": st.sampled_from([None, "", "upstream_name = 'other'\n"]),
    "u": st.sampled_from([None, "upstream = 'eu'\n"]),
}
OTHERS = st.sampled_from(  # live, and nothing to the streams
    [
        "",
        "[observe]\nshow_keys = true\n[metrics]\nper_shard = true\n",
        "[spool]\nbytes_max = 999999999\n[send]\ncall_timeout_ms = 9000\n",
        "[listen]\noperations_passed_on = []\nhosts = ['k']\nidle_timeout_ms = 9000\n",
    ]
)
SECOND = 1_000_000_000
SECONDS_MAX = 600  # for the slowest share to pay for all
BROKEN = st.sampled_from(["linger_ms = 'x'", "[", "[streams.a]\nlinger_ms = -3\n", "metrics = 1"])
RESTART = st.sampled_from(
    ["[metrics]\nemf_namespace = 'k'\n", "[drain]\n[spool]\nletters_bytes_max = 9999999\n"]
)


@st.composite
def configurations(draw: st.DrawFn) -> str:
    text = "region = 'eu-west-1'\naccount_id = '000000000001'\n" + draw(TOP)
    has_eu = draw(st.booleans())
    tables = {name: draw(pieces) for name, pieces in TABLES.items()}
    if not has_eu:
        tables["u"] = None
    if all(table is None for table in tables.values()):
        tables["c"] = ""  # accept_unlisted = false needs one
    text += "[default]\n" + draw(DEFAULT)
    if has_eu:
        text += f"[upstreams.eu]\nregion = 'eu-central-1'\naccount_id = '{EU}'\n"
        text += draw(st.sampled_from(["", "call_timeout_ms = 9000\n"]))
    for name, table in tables.items():
        if table is not None:
            text += f"[streams.{name}]\n{table}"
    return text + draw(OTHERS)


VALID = configurations()
PUTS = st.tuples(st.sampled_from(SPELLINGS), st.integers(1, 3))
STEPS = st.one_of(
    PUTS,
    PUTS,
    VALID.map(lambda text: ("reload", text)),
    st.tuples(VALID, st.one_of(BROKEN, RESTART)).map(lambda two: ("reload", "\n".join(two))),
    st.sampled_from(["keep", "answer", "turn", "look"]),
)


class Play:
    """Streams under load, which are told to reload."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.services = {"default": FakeService(), "eu": FakeService()}
        config = load_config(text=text)
        others = {"eu": self.services["eu"]} if config.upstreams else {}
        self.clock = HandClock()
        self.streams: Streams = make_streams(
            self.services["default"], text, clock=self.clock, **others
        )
        self.reloads = Reloads(lambda: 1.0, 1, 1)
        self.reload = Reload(config, self.read, self, self.reloads, Notifier({}), self.clock.now_ns)
        self.taken: dict[tuple[str, str], list[bytes]] = defaultdict(list)  # in their order
        self.unordered: set[tuple[str, str]] = set()  # streams that kept no order, for a time
        self.count = 0
        self.puts: list[tuple[str, int]] = []  # between the steps of the next swap

    def read(self, _old: Config) -> Loaded:
        return load_sources(Sources(self.text), {})

    def needs_restart(self, old: Config, new: Config) -> tuple[str, ...]:
        return ()

    async def change(self, old: Config, new: Config) -> tuple[str, ...]:
        """As the daemon's."""
        conflicts = self.streams.conflicts(new)
        if conflicts:
            return conflicts
        come = {name: self.services[name] for name in new.upstreams if name not in old.upstreams}
        self.streams.memory.bytes_max = new.memory_bytes_max
        for _ in self.streams.take_config(new, reaches(**come)):
            if self.puts:
                self.put(*self.puts.pop())
            await asyncio.sleep(0)
        return ()

    def put(self, spelling: str, count: int) -> None:
        """Records of one key. Who is refused has lost nothing."""
        stream = self.streams.find(spelling)
        if not isinstance(stream, Stream):
            return
        data = [b"%d" % (self.count + index) for index in range(count)]
        frame = make_frame(
            [Record(each, "k") for each in data], [2] * count, Acknowledge.ACCEPTED, None, None
        )
        if stream.submit(frame):
            self.count += count
            target = stream.target
            called = target.upstream, target.arn or target.name
            self.taken[called] += data
            if not stream.is_ordered:
                self.unordered.add(called)

    @property
    def arrived(self) -> Mapping[tuple[str, str], list[bytes]]:
        found: dict[tuple[str, str], list[bytes]] = defaultdict(list)
        for service in self.services.values():
            for target, data in service.calls:
                found[target.upstream, target.arn or target.name] += [
                    inner.data
                    for each in data
                    for inner in inner_records(each) or [Record(each, "k")]
                ]
        return MappingProxyType(found)

    async def told_to_reload(self, text: str) -> None:
        before, generation = self.reload.config, self.reloads.generation
        self.text = text
        count = self.reloads.count
        self.reload.ask()
        while self.reloads.count == count:
            await asyncio.sleep(0)
        last = self.reloads.last
        assert last is not None
        assert last.outcome is not Outcome.FAILED, last
        try:
            new = load_config(text=text)
        except ConfigError:
            assert last.outcome is Outcome.WRONG
        else:
            assert last.outcome is not Outcome.WRONG
            if find_changes(before, new).restart:
                assert last.outcome is Outcome.RESTART
        if last.outcome.is_success:
            assert self.reload.config == load_config(text=text)
        else:
            assert self.reload.config is before
            assert self.reloads.generation == generation

    async def end(self) -> None:
        """All that was taken is delivered; nothing is left of it."""
        for service in self.services.values():
            service.answer.set()
        for _ in range(SECONDS_MAX):
            self.clock.ns += SECOND
            self.streams.begin_drain()  # wakes all, too
            await turn()
            if not undelivered_by(self.streams):
                break
        self.streams.look()
        assert undelivered_by(self.streams) == 0
        assert delivered_by(self.streams) == self.count
        assert self.streams.memory.bytes_taken == 0
        await self.streams.aclose()


@settings(max_examples=examples(200), deadline=None)
@given(first=VALID, steps=st.lists(STEPS, max_size=20))
def test_reloads_under_load_lose_and_repeat_nothing(
    first: str, steps: list[tuple[str, int] | tuple[str, str] | str]
) -> None:
    asyncio.run(_play(first, steps))


async def _play(first: str, steps: list[tuple[str, int] | tuple[str, str] | str]) -> None:
    play = Play(first)
    for step in steps:
        if step == "keep":
            for service in play.services.values():
                service.answer.clear()
        elif step == "answer":
            for service in play.services.values():
                service.answer.set()
        elif step == "turn":
            await turn()
        elif step == "look":
            play.streams.look()
        elif step[0] == "reload":
            play.puts = [(spelling, 1) for spelling in SPELLINGS]
            await play.told_to_reload(str(step[1]))
        else:
            play.put(step[0], int(step[1]))
    await play.end()
    arrived = play.arrived
    for stream, data in play.taken.items():
        assert sorted(arrived[stream]) == sorted(data), stream
        assert stream in play.unordered or arrived[stream] == data
    assert sum(map(len, arrived.values())) == play.count
