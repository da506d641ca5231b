"""`workers`: how many, and what each has of a configuration."""

import pytest

from kdaemon.base.errors import ConfigError
from kdaemon.base.limits import MIB
from kdaemon.base.service import AWS
from kdaemon.config import Config
from kdaemon.config.load import load_config
from kdaemon.config.parts import HEIR_BYTES_MAX, heir_of, memory_needed, part_of
from kdaemon.pace.adaptive import FIRST_SHARE
from kdaemon.pack.shard_lanes import ShardRates
from kdaemon.streams.laid_out import engine_settings

BOUNDED = "shard_records_per_second = 500\nshard_bytes_per_second = 524288\n"
LISTED = '[streams.orders]\nsocket = "/run/x.sock"\nlines = "raw"\n'

MANY_ONLY_WRITERS = "workers = 32\nmemory_bytes_max = 2147483648\n[default]\nonly_writer = true"


def test_one_worker_has_all() -> None:
    config = load_config(text=LISTED)
    part = part_of(config, directory="/spool")
    assert (part.memory_bytes_max, part.default, part.send) == (
        config.memory_bytes_max,
        config.default,
        config.send,
    )
    assert part.streams == config.streams


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_parts_are_no_more_than_the_whole(count: int) -> None:
    text = f"workers = {count}\n[spool]\ndirectory = '/s'\n[default]\n{BOUNDED}{LISTED}"
    config = load_config(text=text)
    part = part_of(config, directory="/s/worker-1")
    assert part.spool.directory == "/s/worker-1"
    assert count * part.memory_bytes_max <= config.memory_bytes_max
    assert count * part.spool.bytes_max <= config.spool.bytes_max
    assert count * part.spool.letters_bytes_max <= config.spool.letters_bytes_max
    for mine, whole in (
        (part.default, config.default),
        (part.streams["orders"], config.streams["orders"]),
    ):
        assert mine.worker_count == count
        assert count * mine.shard_records_per_second <= whole.shard_records_per_second
        assert count * mine.shard_bytes_per_second <= whole.shard_bytes_per_second
        assert mine.buffer_bytes_max <= part.memory_bytes_max
        assert mine.buffer_bytes_max >= 2 * mine.request_bytes_max
        assert mine.in_flight_max >= 1
    assert part.listen.admin == ""
    assert (part.listen.http, part.streams["orders"].socket) == (
        config.listen.http,
        "/run/x.sock",
    )


def test_a_whole_shard_may_be_one_worker_s() -> None:
    """Where nobody set a bound, workers find their parts as a fleet does."""
    config = load_config(text="workers = 4\n[default]\nshard_bytes_per_second = 4")
    part = part_of(config, directory="").default
    assert (part.shard_records_per_second, part.shard_bytes_per_second) == (1000, 1)
    assert engine_settings(part, AWS).first_share == FIRST_SHARE, "as a daemon of a fleet"
    assert engine_settings(config.default, AWS).first_share == FIRST_SHARE


def test_the_only_writer_begins_with_all_of_a_shard_all_its_workers_together() -> None:
    config = load_config(text="workers = 4\n[default]\nonly_writer = true")
    assert engine_settings(config.default, AWS).first_share == 1.0
    assert engine_settings(part_of(config, directory="").default, AWS).first_share == 0.25
    many = part_of(load_config(text=MANY_ONLY_WRITERS), directory="")
    assert engine_settings(many.default, AWS).first_share == FIRST_SHARE, "who knows no more"


@pytest.mark.parametrize(
    ("bounds", "records", "size"),
    [
        ("", 1_000, MIB),
        ("shard_records_per_second = 400", 400, MIB),
        ("shard_bytes_per_second = 400000", 1_000, 400_000),
        ("shard_records_per_second = 400\nshard_bytes_per_second = 400000", 400, 400_000),
    ],
)
@pytest.mark.parametrize("count", [1, 4])
def test_what_the_only_writer_may_send_is_divided_once(
    bounds: str, records: int, size: int, count: int
) -> None:
    """A bound is divided among the workers; where there is none, each begins with its part."""
    config = load_config(text=f"workers = {count}\n[default]\nonly_writer = true\n{bounds}")
    settings = engine_settings(part_of(config, directory="").default, AWS)
    budget = ShardRates.of(settings).budget(1, 0)
    assert (count * budget.records.rate, count * budget.bytes.rate) == (records, size)


def test_nothing_comes_in_to_an_heir() -> None:
    heir = heir_of(load_config(text=f"workers = 2\n{LISTED}"), directory="/s/worker-3")
    assert (heir.listen.http, heir.listen.unix, heir.streams["orders"].socket) == ("", "", "")
    assert heir.spool.directory == "/s/worker-3"


@pytest.mark.parametrize("count", [1, 2, 8])
def test_heirs_are_no_second_daemon_of_memory(count: int) -> None:
    """There may be many, each beside the workers: as little as carries one request of each kind."""
    config = load_config(text=f"workers = {count}\n{LISTED}")
    heir = heir_of(config, directory="/s/worker-9")
    assert heir.memory_bytes_max == max(HEIR_BYTES_MAX, memory_needed(config)) <= 40 * MIB
    for stream in (heir.default, *heir.defaults.values(), *heir.streams.values()):
        assert 2 * stream.request_bytes_max <= heir.memory_bytes_max
        assert stream.buffer_bytes_max <= heir.memory_bytes_max
    small = load_config(text="memory_bytes_max = 20971520\n[default]\nbuffer_bytes_max = 20971520")
    assert heir_of(small, directory="/s/worker-9").memory_bytes_max <= small.memory_bytes_max


@pytest.mark.parametrize(
    ("text", "cores", "count", "memory_mib"),
    [
        ("", 8, 1, 256),
        ("workers = 2", 8, 2, 256),
        ("workers = 4", 1, 4, 512),
        ("workers = 'auto'", 1, 1, 256),
        ("workers = 'auto'", 4, 4, 512),
        ("workers = 'auto'\nmemory_bytes_max = 67108864", 16, 3, 64),
        ("workers = 'auto'", 1000, 256, 128_000),
    ],
)
def test_auto_is_as_many_as_there_are_cores_and_room(
    text: str, cores: int, count: int, memory_mib: int
) -> None:
    config = load_config(text=text, cores=cores)
    assert config.worker_count == count
    assert config.memory_bytes_max == memory_mib * MIB


def test_memory_of_several_follows_the_container() -> None:
    config = load_config(text="workers = 2", memory_limit_bytes=400 * MIB)
    assert config.memory_bytes_max == (400 - 2 * 96 - 64) * MIB


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(text=text, source="k.toml")
    (found,) = caught.value.problems
    return str(found)


def test_what_cannot_go_together_is_said() -> None:
    found = problem(
        "workers = 8\nmemory_bytes_max = 67108864\n[default]\nbuffer_bytes_max=33554432"
    )
    assert found.startswith("k.toml: workers: 8 workers have")
    assert "raise memory_bytes_max to" in found
    assert "set fewer workers" in found
    found = problem("workers = 50\n[spool]\ndirectory = '/s'")
    assert "50 workers share spool.bytes_max (1073741824)" in found
    assert "raise spool.bytes_max to" in found


@pytest.mark.parametrize("given", ["0", "257", "'many'", "true", "1.5", "'2'"])
def test_what_is_no_number_of_workers_is_told(given: str) -> None:
    assert 'expected a whole number from 1 to 256, or "auto"' in problem(f"workers = {given}")


def test_a_flag_or_a_variable_may_say_it() -> None:
    assert load_config(flags=[("workers", "3")]).worker_count == 3
    assert load_config(environ={"KDAEMON_WORKERS": "auto"}, cores=2).worker_count == 2
    assert Config().worker_count == 1
