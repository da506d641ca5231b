"""Named faults, each put into a copy of kdaemon: the crash test must notice every one.

So the oracle is itself tested: `python -m tests.crash --faults` runs the crash test on each copy.
Each fault is a few lines of text in place of others; a text that is not there any more is an error
with the fault's name, never a fault that is skipped. Every one of them does harm; none is seen by
looking at the code that it breaks.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.power import Manners
from tests.kit.template import ROOT


@dataclass(frozen=True, slots=True)
class Change:
    """`old` stands once in `file` (below kdaemon/), and becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Fault:
    """`seen_as`: how a problem begins that it may be noticed by, one of them. `tries`: runs within
    which it is noticed, where chance decides. `manners`: of the disk that shows it.
    """

    name: str
    changes: tuple[Change, ...]
    seen_as: tuple[str, ...]
    tries: int = 10
    manners: Manners = field(default_factory=Manners)


LOST = "acknowledged and lost"
TWICE = "duplicates without an excuse"
CHANGED = "never sent, or not so"
TURNED = "out of the order of its key"
ALIVE = "dead, and nothing is wrong with it"
LEFT = "frames are left in the spool"
UNCOUNTED = "at the end"
DAMAGED = "a defect in the log"
COMPLAINED = "a client: "

SLOW_DISK = Manners(fsync_us=(100_000, 600_000))  # more waits for a commit than one takes


class FaultGoneError(Exception):
    """The code that a fault changes is another one now."""


def copy_with(fault: Fault, directory: Path) -> Path:
    """A tree in `directory` to start daemons from, with the fault in its kdaemon."""
    texts, tree = changed(fault), directory / "tree"
    shutil.copytree(
        ROOT / "kdaemon", tree / "kdaemon", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tree / "tests").symlink_to(ROOT / "tests")
    for file, text in texts.items():
        (tree / "kdaemon" / file).write_text(text)
    return tree


def changed(fault: Fault) -> dict[str, str]:
    """The text of each file that the fault changes, by its place below kdaemon/. Raises
    FaultGoneError.
    """
    texts: dict[str, str] = {}
    for change in fault.changes:
        text = texts.get(change.file) or (ROOT / "kdaemon" / change.file).read_text()
        count = text.count(change.old)
        if count != 1:
            raise FaultGoneError(
                f"fault {fault.name!r}: kdaemon/{change.file} has its text {count} times, not once:"
                f"\n{change.old}\nWrite the fault anew for the code as it is now."
            )
        texts[change.file] = text.replace(change.old, change.new)
    return texts


_SUBMIT = """\
        self.commits.add(Pending(spooled, frame, payload, footprint_bytes, row_bytes))
"""
_ANSWER = """\
        from kdaemon.spool.pending import STORED
        frame.results = [STORED] * count
        if frame.on_settled is not None:
            on_settled, frame.on_settled = frame.on_settled, None
            self._loop.call_soon(on_settled, frame)
"""
_HELD = """\
        self.rows[row.frame_id] = row
"""
_SETTLED = "                changes.settled.append(item.frame_id)\n"
_BURIED = "        kept = list(letters)\n"
_DECODED = "[Record(one.data, one.partition_key, one.explicit_hash_key) for one in stored]"
_FAILED = """\
        refusal = RecordResult(error_code="ServiceUnavailable", error_message=text)
"""
_CALLED_STORED = """\
        from kdaemon.spool.pending import STORED
        refusal = STORED
"""
_LAST = """\
            last = turn.last
            if last is None:
                turn.first = waiting
            else:
                last.next = waiting
            turn.last = waiting
"""
_LAST_FIRST = """\
            waiting.next = turn.first
            if turn.first is None:
                turn.last = waiting
            turn.first = waiting
"""
_CALL = """\
        self.counters.calls[verdict] += 1
        self._settlement.failures.call(error.code, error.message, batch.record_count, now_ns)
        if verdict is Verdict.POISON:
"""
_CALL_TAKEN = """\
        self.counters.calls[verdict] += 1
        self._settlement.failures.call(error.code, error.message, batch.record_count, now_ns)
        if verdict is Verdict.AMBIGUOUS:
            from kdaemon.base.record import RecordResult
            taken = RecordResult(sequence_number="1", shard_id="shardId-000000000000")
            self._settlement.settle(batch, [taken] * len(batch.records), now_ns)
            return
        if verdict is Verdict.POISON:
"""
_PARENT = "    sync(Path(directory).parent)\n"
_ROTATED = """\
    bits = (bits << 1 | bits >> record_count - 1) & ((1 << record_count) - 1)
"""
_BITMAP = """\
    bitmap = bits.to_bytes((record_count + 7) // 8, "little")
    return bitmap + _CRC
"""[:-1]
_OF_READ = """\
            for stored in back.frames
"""
_ITS_BITS = """\
        settled = 0 if stored.settled is None else settled_bits(stored.settled, count)
"""
_EXPIRED = """\
        if unix_ms(self._clock) - stored.accepted_ms > 1000:
            self._owed.owe(stored.id, DONE)
            return None
"""
_IS_READ = """\
            spooled.position.is_read
            and frame_id > spooled.position.read_until  # else it was dropped before it was told
            and not spooled.is_dropping
            and self"""
_OVERTOOK = """\
        assert not is_passed or self.is_read, "a frame overtook those before it"
"""
_SIZES = """\
    sizes = [
        len(record.data)"""
_DOUBLED = """\
    records, positions = [*records, records[0]], [*positions, positions[0]]
"""
_MARK = """\
                self.marks[way.order] = Mark(frame_id - 1, accepted_ms, way.lane)
"""
_GOES = """\
        return [way for way in ways if self._may_go(way.order, is_again=is_again)]
"""
_GOES_IF_ROOM = """\
        return [way for way in ways if not way.is_full]
"""
_READ_AGAIN = """\
                spooled.position.read_again(first_id)
"""
_LINE = """\
            taken, self._line = self._line, []
"""
_IS_DONE = """\
        if not self.parts and not self.left_count:
"""
_EACH = """\
            for index, result in zip(indices, answers, strict=False):  # the next run's follow
                if result.sequence_number
"""[:-1]
_NONE_FAILED = """\
            failed_indices: list[int] = []
"""
_BESIDE = """\
            beside = indices[1:] + indices[:1]
"""
_EACH_WHOLE = """\
            for index in indices:
                result = next(answers)
"""
_SHARD_WHOLE = """\
            shard_id = lane.shard_id
"""
_OPEN_LOG = """\
        found = self._directory.look()
        log = self._mended_log()
"""
_TRIED = """\
        attempts = run.attempt_count + 1
        if attempts > frame.attempt_count:  # noqa: PLR1730 - `max` is a call
"""
_LEFT_OUT = """\
        if count > 1:
            frame.results[indices[0]] = RecordResult(sequence_number="1", shard_id="1")
            self._ledger.deliver({frame: 1}, frame.sizes[indices[0]], now_ns)
            self._leave(run, indices[:1])
            indices, count = indices[1:], count - 1
"""
_PUT = """\
        return await self._call("PutRecords", arn, request, bytes_max, leave, is_put=not is_dry)
"""

FAULTS = (
    Fault(
        "an answer before its commit",
        (Change("spool/spool.py", _SUBMIT, _SUBMIT + _ANSWER),),
        (LOST,),
    ),
    Fault(
        "no fsync at all (synchronous = OFF)",
        (Change("spool/schema.py", '"synchronous = FULL"', '"synchronous = OFF"'),),
        (LOST, DAMAGED),
    ),
    Fault(
        "no fsync of a commit (synchronous = NORMAL)",
        (Change("spool/schema.py", '"synchronous = FULL"', '"synchronous = NORMAL"'),),
        (LOST,),
    ),
    Fault(
        "no fsync of the directory's own name",
        (Change("spool/lock.py", _PARENT, ""),),
        (LOST,),
        tries=12,
    ),
    Fault(
        "a deletion before the service's answer",
        (Change("spool/held.py", _HELD, _HELD + "        self._owed.owe(row.frame_id, DONE)\n"),),
        (LOST,),
    ),
    Fault(
        "no deletion of what is delivered",
        (Change("spool/owed.py", _SETTLED, "                pass\n"),),
        (TWICE, LEFT),
    ),
    Fault(
        "a commit in pieces",
        (
            Change("spool/database.py", 'connection.execute("BEGIN IMMEDIATE")', "pass"),
            Change("spool/database.py", 'connection.execute("COMMIT")', "pass"),
        ),
        (DAMAGED, LOST),
    ),
    Fault(
        "a log that is taken for a stale one at start, and deleted",
        (
            Change(
                "spool/upkeep.py",
                _OPEN_LOG,
                '        Path(self._directory.database_path + "-wal").unlink(missing_ok=True)\n'
                + _OPEN_LOG,
            ),
        ),
        (LOST, DAMAGED),
    ),
    Fault(
        "ids that begin anew, and a clash that nobody sees",
        (
            Change("spool/commits.py", "self._next_id = store.next_id", "self._next_id = 1"),
            Change(
                "spool/writes.py",
                '"INSERT INTO frame VALUES',
                '"INSERT OR REPLACE INTO frame VALUES',
            ),
        ),
        (LOST, DAMAGED),
    ),
    Fault(
        "stored is told of a commit that failed",
        (Change("spool/commits.py", _FAILED, _CALLED_STORED),),
        (LOST,),
        manners=Manners(full_every=400),
    ),
    Fault(
        "the bitmap of what is settled is shifted by one",
        (Change("spool/codec.py", _BITMAP, _ROTATED + _BITMAP),),
        (LOST,),
    ),
    Fault(
        "old frames expire in silence",
        (Change("spool/delivery.py", _ITS_BITS, _EXPIRED + _ITS_BITS),),
        (LOST,),
    ),
    Fault(
        "the first frame of a read is passed over",
        (
            Change(
                "spool/delivery.py",
                _OF_READ,
                _OF_READ.replace("back.frames", "back.frames[len(back.frames) > 1 :]"),
            ),
        ),
        (LOST, LEFT),
    ),
    Fault(
        "new frames overtake those that stand on disk",
        (
            Change("spool/delivery.py", _IS_READ, "            self"),
            Change(
                "spool/read_position.py",
                _OVERTOOK,
                "        is_passed = is_passed and self.is_read\n",
            ),
        ),
        (TURNED,),
    ),
    Fault(
        "what is left for a full shard is not marked",
        (
            Change("spool/left.py", _MARK, ""),
            Change("spool/left.py", _GOES, _GOES_IF_ROOM),
        ),
        (LOST, LEFT),
    ),
    Fault(
        "a frame is deleted of which records are left for a full shard",
        (Change("spool/held.py", _IS_DONE, _IS_DONE.replace(" and not self.left_count", "")),),
        (LOST,),
    ),
    Fault(
        "what is left is forgotten when the shards change",
        (Change("spool/delivery.py", _READ_AGAIN, ""),),
        (LOST, LEFT),
        tries=25,
    ),
    Fault(
        "new records overtake those that are left for their shard",
        (Change("spool/left.py", _GOES, _GOES_IF_ROOM),),
        (TURNED,),
        tries=25,
    ),
    Fault(
        "frames that wait for one commit are stored the other way round",
        (
            Change(
                "spool/commit_queue.py",
                _LINE,
                _LINE.replace("= self._line,", "= self._line[::-1],"),
            ),
        ),
        (TURNED,),
    ),
    Fault(
        "of what a client has waiting for the disk, the last is stored first",
        (Change("spool/commit_queue.py", "client.queue.popleft()", "client.queue.pop()"),),
        (TURNED,),
        tries=3,
        manners=SLOW_DISK,
    ),
    Fault(
        "the first record of a frame is doubled at a restart",
        (Change("spool/held.py", _SIZES, _DOUBLED + _SIZES),),
        (TWICE,),
    ),
    Fault(
        "data is cut off when it is read back",
        (Change("spool/codec.py", _DECODED, _DECODED.replace("one.data,", "one.data[:-1],")),),
        (CHANGED,),
    ),
    Fault(
        "a partition key is cut off when it is read back",
        (
            Change(
                "spool/codec.py",
                _DECODED,
                _DECODED.replace("one.partition_key,", "one.partition_key[:-1],"),
            ),
        ),
        (CHANGED,),
    ),
    Fault(
        "an explicit hash key is forgotten on disk",
        (Change("spool/codec.py", _DECODED, _DECODED.replace("one.explicit_hash_key", "None")),),
        (CHANGED,),
    ),
    Fault(
        "a dead letter is not written",
        (Change("spool/held.py", "            letters.append(\n", "            (\n"),),
        (LOST,),
    ),
    Fault(
        "a dead letter is written twice",
        (Change("spool/owed.py", _BURIED, "        kept = 2 * list(letters)\n"),),
        ("a record is among the dead letters twice",),
    ),
    Fault(
        "a success is sent again",
        (Change("send/client.py", _PUT, _PUT.replace("return ", "") + _PUT),),
        (TWICE,),
    ),
    Fault(
        "a retry leaves out one record",
        (Change("settle/settlement.py", _TRIED, _LEFT_OUT + _TRIED),),
        (LOST,),
    ),
    Fault(
        "results go to the record beside theirs",
        (
            Change("settle/settlement.py", _EACH, _EACH.replace("indices,", "beside,")),
            Change("settle/settlement.py", _NONE_FAILED, _NONE_FAILED + _BESIDE),
            Change("pack/whole.py", _EACH_WHOLE, _EACH_WHOLE.replace("indices", "beside")),
            Change("pack/whole.py", _SHARD_WHOLE, _SHARD_WHOLE + _BESIDE),
        ),
        (LOST,),
    ),
    Fault(
        "results in the wrong order",
        (
            Change(
                "engine/engine.py",
                "self._settlement.settle(batch, results, now_ns)",
                "self._settlement.settle(batch, results[::-1], now_ns)",
            ),
        ),
        (LOST,),
    ),
    Fault(
        "an unknown outcome is taken for a success",
        (Change("engine/engine.py", _CALL, _CALL_TAKEN),),
        (LOST, COMPLAINED),
    ),
    Fault(
        "a throttled record is taken for a dead one",
        (
            Change(
                "settle/settlement.py",
                "        if verdict is Verdict.POISON:\n            return verdict\n        frame",
                "        if verdict in (Verdict.POISON, Verdict.THROTTLED):\n"
                "            return Verdict.POISON\n        frame",
            ),
        ),
        (ALIVE,),
    ),
    Fault(
        "a record is dropped where a frame is split",
        (
            Change(
                "pack/run.py",
                "        self.indices = self.indices[count:]",
                "        self.indices = self.indices[count + 1 :] or self.indices[count:]",
            ),
        ),
        (LOST, LEFT),
    ),
    Fault(
        "the last of a key goes first",
        (Change("pack/key_order.py", _LAST, _LAST_FIRST),),
        (TURNED,),
    ),
    Fault(
        "one line too many is acknowledged",
        (
            Change(
                "wire/rejections.py",
                """return b'{"acknowledged":%d}\\n' % count""",
                """return b'{"acknowledged":%d}\\n' % (count + 1)""",
            ),
        ),
        (COMPLAINED,),
    ),
    Fault(
        "a delivery is not counted",
        (Change("settle/ledger.py", "            counters.delivered += count\n", ""),),
        (UNCOUNTED,),
    ),
)
