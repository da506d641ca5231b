"""A takeover by another configuration: order holds; who cannot have its spool begins nothing."""

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.daemon import READY, Daemon, environment, write_config
from tests.kit.endpoints import read_all
from tests.kit.patience import wait_for
from tests.kit.restarts import settings_of
from tests.process.test_takeover import accept, run, start, store, took_over

# Reads its spool back when it is told to.
RECOVERS_LATE = """
import asyncio, logging, os
from kdaemon.__main__ import main
from kdaemon.spool.spool import Spool

recover = Spool.recover

async def late(self, *what):
    logging.getLogger("kdaemon").info("asked to recover")
    while not os.path.exists({path!r}):
        await asyncio.sleep(0.01)
    await recover(self, *what)

Spool.recover = late
main()
"""


COUNTS = [(2, 2), (1, 2), (2, 1)]  # of workers: before, and then


def config_of(directory: Path, settings: Mapping[str, object], workers: int = 1) -> Path:
    directory.mkdir(exist_ok=True)
    return write_config(directory, {**settings, "workers": workers})


@pytest.mark.parametrize("counts", [(1, 1), *COUNTS])
def test_what_was_ordered_in_memory_goes_before_what_is_stored_now(
    tmp_path: Path, one_shard: str, stack: ExitStack, counts: tuple[int, int]
) -> None:
    """The new one has a disk of its own, for which it need not wait."""
    ordered = {"default.ordering": "partition_key", "spool.directory": ""}
    settings = settings_of(tmp_path, one_shard, **ordered)
    old = run(config_of(tmp_path / "a", settings, counts[0]), stack, one_shard)
    old.inject({"kind": "throttle", "calls": 1, "latency_ms": 3_000})
    accept(tmp_path, ["one", "two"])
    wait_for(lambda: old.counted("kdaemon_records_in_flight") or None, "the first call")
    stored = {"default.acknowledge": "stored", "spool.directory": str(tmp_path / "spool")}
    new = start(config_of(tmp_path / "b", settings | stored, counts[1]), "--takeover")
    stack.callback(new.close)
    old.wait_log("draining")
    assert store(tmp_path, "three", key="k") == {"acknowledged": 1}
    assert old.wait() == 0
    new.wait_log(READY)
    new.wait_settled()
    assert new.stop() == 0
    assert read_all(one_shard) == [b"one", b"two", b"three"]


def test_what_was_stored_in_order_goes_before_what_is_in_memory_now(
    tmp_path: Path, one_shard: str, stack: ExitStack
) -> None:
    """The old one leaves it on disk, and the new one opens its doors when it has found it."""
    stored = {"default.ordering": "partition_key", "default.acknowledge": "stored"}
    settings = settings_of(tmp_path, one_shard, **stored)
    old = run(config_of(tmp_path / "a", settings), stack, one_shard)
    old.inject({"kind": "throttle", "calls": None})
    assert store(tmp_path, "one", key="k") == {"acknowledged": 1}
    told = tmp_path / "recover"
    config = config_of(tmp_path / "b", settings | {"default.acknowledge": "delivered"})
    program = RECOVERS_LATE.format(path=str(told))
    arguments = ["run", "--takeover", "--config", str(config)]
    new = Daemon(arguments, environment(), program=("-c", program))
    stack.callback(new.close)
    assert old.wait() == 0
    assert old.log[-1]["fields"]["spooled"] == 1
    new.wait_log("asked to recover")
    new.sandbox_url = one_shard
    new.clear_faults()
    later = threading.Thread(target=accept, args=(tmp_path, ["two"]))
    later.start()
    later.join(1.0)  # a daemon that does not wait has delivered, by then
    told.touch()
    later.join()
    new.wait_log(READY)
    new.wait_settled()
    assert new.stop() == 0
    assert read_all(one_shard) == [b"one", b"two"]


@pytest.mark.parametrize("has_spool", [True, False], ids=["another", "none"])
def test_a_spool_that_a_third_process_has_is_not_waited_for(
    tmp_path: Path, one_shard: str, stack: ExitStack, *, has_spool: bool
) -> None:
    """Nobody would ever give it up: the one that runs goes on."""
    own = {} if has_spool else {"spool.directory": ""}
    settings = settings_of(tmp_path, one_shard)
    old = run(config_of(tmp_path / "a", settings | own), stack, one_shard)
    (tmp_path / "third").mkdir()
    third = run(
        config_of(tmp_path / "third", settings_of(tmp_path / "third", one_shard)), stack, one_shard
    )
    other = {"spool.directory": str(tmp_path / "third" / "spool")}
    new = start(config_of(tmp_path / "b", settings | other), "--takeover")
    stack.callback(new.close)
    assert new.wait() == 1
    log = "\n".join(new.lines)
    assert "cannot start: " in log
    assert f"in use by process {third.pid}" in log
    assert old.page("/readyz")[0] == 200
    accept(tmp_path, ["one"])
    old.wait_settled()
    assert old.stop() == 0


def test_one_that_waits_for_the_spool_itself_is_taken_over_by_the_next(
    tmp_path: Path, one_shard: str, stack: ExitStack
) -> None:
    """The next waits for the spool of the one before the one before."""
    settings = settings_of(tmp_path, one_shard, **{"send.call_timeout_ms": 40_000})
    config = config_of(tmp_path / "a", settings)
    first = run(config, stack, one_shard)
    first.inject({"kind": "throttle", "calls": None})
    accept(tmp_path, ["one"])
    second = took_over(config, stack)
    assert second.page("/readyz")[0] == 503
    third = took_over(config, stack)
    assert second.wait() == 0
    assert third.page("/readyz")[0] == 503
    first.clear_faults()
    assert first.wait() == 0
    assert store(tmp_path, "two") == {"acknowledged": 1}
    third.wait_settled()
    assert third.stop() == 0
    assert read_all(one_shard) == [b"one", b"two"]
