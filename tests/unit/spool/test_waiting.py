"""A spool whose directory is another process's for a while: what is put waits, or is refused."""

import asyncio
from pathlib import Path

import pytest

from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.spool import commits as commits_module
from kdaemon.spool.pending import STORED
from kdaemon.spool.reserve import Reserve
from kdaemon.spool.spool import Spool
from kdaemon.system import SystemClock
from tests.kit.patience import PATIENCE_S, until
from tests.unit.spool.rig import MIB, FakeTarget, a_frame, a_spool, open_store


def a_waiting_spool(directory: Path) -> tuple[Spool, ByteBudget]:
    memory = ByteBudget(64 * MIB)
    spool = Spool(open_store(directory), 64 * MIB, memory, SystemClock())
    spool.wait_for("process 1")
    return spool, memory


def put(spool: Spool, target: FakeTarget, data: bytes) -> "asyncio.Future[Frame]":
    settled: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
    assert spool.put(target, a_frame(data, on_settled=settled.set_result))
    return settled


async def begin(spool: Spool, target: FakeTarget, steps: int) -> None:
    """Takes the directory over, as far as it comes."""
    if steps > 0:
        await spool.open()
    if steps > 1:
        await spool.recover(lambda _: target)


async def test_what_was_put_meanwhile_is_stored_behind_what_stands_there(tmp_path: Path) -> None:
    directory, target = tmp_path / "spool", FakeTarget(room=0)
    async with a_spool(directory, target) as before:
        assert (await put(before, target, b"old")).results[0] is STORED
    target = FakeTarget()
    spool, _ = a_waiting_spool(directory)
    new = put(spool, target, b"new")
    await begin(spool, target, 2)
    spool.go_on()
    assert (await asyncio.wait_for(new, PATIENCE_S)).results[0] is STORED
    await until(lambda: target.data == [b"old", b"new"])
    await spool.aclose()


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["waiting", "opened", "recovered"])
async def test_an_end_before_it_is_ours_refuses_what_waits(tmp_path: Path, steps: int) -> None:
    directory, target = tmp_path / "spool", FakeTarget()
    spool, memory = a_waiting_spool(directory)
    settled = put(spool, target, b"1")
    await begin(spool, target, steps)
    spool.begin_drain()
    frame = await asyncio.wait_for(settled, PATIENCE_S)
    result = frame.results[0]
    assert result is not None
    assert result.error_code == "ServiceUnavailable"
    async with asyncio.timeout(PATIENCE_S):
        await spool.aclose()
    assert memory.bytes_taken == 0
    assert target.counters.spooled == 0
    async with a_spool(directory, target) as again:
        assert again.streams.frame_count == 0


async def test_a_full_disk_that_was_found_meanwhile_is_looked_at_until_it_has_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody stores anything: as long as it is in trouble, probes keep clients away."""
    monkeypatch.setattr(commits_module, "PROBE_INTERVAL_S", 0)
    spool, _ = a_waiting_spool(tmp_path / "spool")
    with monkeypatch.context() as full:
        full.setattr(Reserve, "take", lambda _reserve: False)
        await spool.open()
        found = spool.commits.trouble
        assert found is not None
        for _ in range(5):  # reading back takes longer than until the next probe
            await asyncio.sleep(0)
        await spool.recover(lambda _: FakeTarget())
        spool.go_on()
    await until(lambda: spool.commits.trouble is None)
    await spool.aclose()
