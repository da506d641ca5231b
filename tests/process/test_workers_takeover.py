"""A takeover by several workers, or from several: what a lone daemon promises holds for them."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.daemon import READY, Daemon, environment
from tests.kit.endpoints import read_all
from tests.kit.patience import wait_for
from tests.kit.restarts import settings_of
from tests.process.test_takeover import accept, run, start, store, took_over
from tests.process.test_takeover_changed import COUNTS, config_of
from tests.process.test_takeover_ends import put_accepted

HELD = "the spool is still held: what is to be stored waits for it"
BREAKS = "import sys; {}; from kdaemon.__main__ import main; main()"


@pytest.mark.parametrize("counts", COUNTS)
def test_what_is_left_on_disk_in_order_is_delivered_by_who_comes(
    tmp_path: Path, one_shard: str, stack: ExitStack, counts: tuple[int, int]
) -> None:
    """And the doors open behind the end of who left it."""
    stored = {"default.ordering": "partition_key", "default.acknowledge": "stored"}
    settings = settings_of(tmp_path, one_shard, **stored)
    old = run(config_of(tmp_path / "a", settings, counts[0]), stack, one_shard)
    old.inject({"kind": "throttle", "calls": None})
    assert store(tmp_path, "one", key="k") == {"acknowledged": 1}
    memory = {"default.acknowledge": "delivered"}
    new = took_over(config_of(tmp_path / "b", settings | memory, counts[1]), stack)
    assert old.wait() == 0
    assert old.log[-1]["fields"]["spooled"] == 1
    new.sandbox_url = one_shard
    new.clear_faults()
    wait_for(lambda: read_all(one_shard) == [b"one"] or None, "what was left")
    new.wait_settled()
    assert new.stop() == 0


@pytest.mark.parametrize("counts", [(1, 2), (2, 2)])
@pytest.mark.parametrize("third_count", [1, 2])
def test_a_spool_that_a_third_process_has_is_not_waited_for(
    tmp_path: Path, one_shard: str, stack: ExitStack, counts: tuple[int, int], third_count: int
) -> None:
    """The lone one's stands above those of workers."""
    settings = settings_of(tmp_path, one_shard)
    old = run(config_of(tmp_path / "a", settings, counts[0]), stack, one_shard)
    (tmp_path / "third").mkdir()
    of_third = settings_of(tmp_path / "third", one_shard)
    third = run(config_of(tmp_path / "third", of_third, third_count), stack, one_shard)
    other = {"spool.directory": str(tmp_path / "third" / "spool")}
    new = start(config_of(tmp_path / "b", settings | other, counts[1]), "--takeover")
    stack.callback(new.close)
    assert new.wait() == 1
    log = "\n".join(new.lines)
    assert "cannot start: " in log
    assert "in use by process " in log
    assert old.page("/readyz")[0] == 200
    accept(tmp_path, ["one"])
    old.wait_settled()
    assert old.stop() == 0
    assert third.stop() == 0


@pytest.mark.parametrize("ordering", ["none", "partition_key"])
@pytest.mark.parametrize("name", ["botocore", "prometheus_client"])
def test_workers_whose_libraries_cannot_be_loaded_leave_the_other_one_alone(
    tmp_path: Path, one_shard: str, stack: ExitStack, name: str, ordering: str
) -> None:
    more = {"default.ordering": ordering, "spool.directory": ""}
    settings = settings_of(tmp_path, one_shard, **more)
    old = run(config_of(tmp_path, settings, 2), stack, one_shard)
    package = tmp_path / "packages" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('half of it')")
    program = BREAKS.format(f"sys.path.insert(0, {str(package.parent)!r})")
    arguments = ["run", "--takeover", "--config", str(config_of(tmp_path, settings, 2))]
    new = Daemon(arguments, environment(), program=("-c", program))
    stack.callback(new.close)
    assert new.wait() == 1
    log = "\n".join(new.lines)
    assert "cannot start: a part of kdaemon cannot be loaded (ImportError: half of it)" in log
    assert "Traceback" not in log
    assert not any(line["text"] == READY for line in new.log)
    assert old.page("/readyz")[0] == 200
    put_accepted(old.url, b"one")
    accept(tmp_path, ["two"])
    old.wait_settled()
    assert old.stop() == 0
    assert sorted(read_all(one_shard)) == [b"one", b"two"]


def test_workers_that_wait_for_spools_themselves_are_taken_over_by_the_next(
    tmp_path: Path, one_shard: str, stack: ExitStack
) -> None:
    settings = settings_of(tmp_path, one_shard, **{"send.call_timeout_ms": 40_000})
    config = config_of(tmp_path / "a", settings, 2)
    first = run(config, stack, one_shard)
    first.inject({"kind": "throttle", "calls": None})
    accept(tmp_path, ["one"])
    second = took_over(config, stack)
    second.wait_log(HELD)
    third = took_over(config, stack)
    third.wait_log(HELD)
    assert second.wait() == 0
    first.clear_faults()
    assert first.wait() == 0
    assert store(tmp_path, "two") == {"acknowledged": 1}
    third.wait_settled()
    assert third.stop() == 0
    assert sorted(read_all(one_shard)) == [b"one", b"two"]
