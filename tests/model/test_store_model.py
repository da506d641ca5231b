"""The store against a dictionary: whatever is done to it, and however it ends, both say the same.

The model is what a store promises and no more: frames by id, what is known to be settled of them,
letters in order within a bound. Crashes copy the files as they are and go on with the copy.
"""

import shutil
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kdaemon.base.admission import frame_footprint_bytes
from kdaemon.base.errors import SpoolError
from kdaemon.spool.codec import settled_indices
from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.store import Store
from kdaemon.spool.values import Changes, Dropped, NewFrame, Settled
from tests.kit.depth import examples
from tests.kit.stores import (
    NOW_MS,
    encode_settled,
    make_letter,
    make_records,
    new_frame,
    open_store,
    open_view,
)

RECORD_COUNT = 3
LETTERS_MAX = 5
LETTER_BYTES = 64 + 10 + len("orderskey-1poisonInvalidArgumentExceptiona word of the service")
ALL = LetterFilter()

streams = st.sampled_from(["orders", "clicks"])
sizes = st.sampled_from([1, 200, 9_000, 60_000])
picks = st.lists(st.integers(0, 50), max_size=6)


@dataclass
class ModelFrame:
    frame: NewFrame
    record_bytes: int
    settled: set[int] | None = None
    is_damaged: bool = False


class StoreModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.directory = self.root / "0"
        self.crash_count = 0
        self.frames: dict[int, ModelFrame] = {}
        self.letters: list[int] = []
        self.next_id = 1
        self.quarantined = 0
        self.store: Store = self._open()

    def _open(self) -> Store:
        return open_store(self.directory, letters_bytes_max=LETTERS_MAX * LETTER_BYTES)

    def teardown(self) -> None:
        assert self.store.upkeep.salvage is None
        self.store.close()
        shutil.rmtree(self.root)

    def _of(self, stream: str) -> list[int]:
        return sorted(one for one in self.frames if self.frames[one].frame.stream == stream)

    def _pick(self, numbers: list[int]) -> list[int]:
        """Ids that are stored, by their place; and one that is not."""
        ids = sorted(self.frames)
        return [ids[number] if number < len(ids) else 10**6 + number for number in numbers]

    def _changes(
        self, appended: list[tuple[str, int]], settled: list[int], noted: list[int], died: int
    ) -> tuple[Changes, dict[int, ModelFrame]]:
        new = {}
        for stream, record_bytes in appended:
            frame = new_frame(self.next_id, stream, RECORD_COUNT, record_bytes)
            new[self.next_id] = ModelFrame(frame, record_bytes)
            self.next_id += 1
        progress = [(one, encode_settled([one % RECORD_COUNT], RECORD_COUNT)) for one in noted]
        letters = [make_letter(2 * number + 1) for number in range(died)]
        return Changes([one.frame for one in new.values()], settled, progress, letters), new

    @rule(
        appended=st.lists(st.tuples(streams, sizes), max_size=4),
        settled=picks,
        noted=picks,
        died=st.integers(0, 2),
    )
    def commit(
        self, appended: list[tuple[str, int]], settled: list[int], noted: list[int], died: int
    ) -> None:
        settled, noted = self._pick(settled), self._pick(noted)
        changes, new = self._changes(appended, settled, noted, died)
        committed = self.store.commit(changes)
        self.frames |= new
        for one in noted:
            if one in self.frames:
                self.frames[one].settled = {one % RECORD_COUNT}
        for one in settled:
            self.frames.pop(one, None)
        self.letters += [letter.attempts for letter in changes.dead]
        assert committed.letters_dropped == max(0, len(self.letters) - LETTERS_MAX)
        self.letters = self.letters[-LETTERS_MAX:]

    @rule(appended=st.lists(st.tuples(streams, sizes), min_size=1, max_size=4), settled=picks)
    def commit_on_a_full_disk(self, appended: list[tuple[str, int]], settled: list[int]) -> None:
        changes, _ = self._changes([*appended, ("orders", 200_000)], self._pick(settled), [], 1)
        connection = self.store.upkeep.database.connection
        (page_count,) = connection.execute("PRAGMA page_count").fetchone()
        (free_count,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free_count > 8:
            return  # there is room without growing
        connection.execute(f"PRAGMA max_page_count = {page_count}").fetchall()
        with pytest.raises(SpoolError) as caught:
            self.store.commit(changes)
        assert caught.value.kind == "full"
        connection.execute("PRAGMA max_page_count = 1000000000").fetchall()

    @rule(stream=streams, at=st.integers(0, 20), byte_count=st.sampled_from([1, 30_000, 10**9]))
    def read(self, stream: str, at: int, byte_count: int) -> None:
        ids = self._of(stream)
        after_id = ids[at] if at < len(ids) else 0
        left = [one for one in ids if one > after_id]
        read = self.store.read(stream, after_id, byte_count)
        expected = []
        taken = 0
        for one in left:
            expected.append(one)
            taken += len(self.frames[one].frame.payload)
            if not self.frames[one].is_damaged:  # else nobody knows of how many records
                taken += frame_footprint_bytes(RECORD_COUNT, 0)
            if taken >= byte_count:
                break
        assert read.last_id == (expected[-1] if expected else after_id)
        assert read.is_end == (len(expected) == len(left))
        damaged = [one for one in expected if self.frames[one].is_damaged]
        assert (read.corrupt_count, read.corrupt_record_count) == (
            len(damaged),
            len(damaged) * RECORD_COUNT,
        )
        for one in damaged:
            del self.frames[one]
        self.quarantined += len(damaged)
        assert [frame.id for frame in read.frames] == [
            one for one in expected if one not in damaged
        ]
        for frame in read.frames:
            model = self.frames[frame.id]
            assert frame.stream == stream
            assert frame.records == make_records(frame.id, RECORD_COUNT, model.record_bytes)
            assert frame.accepted_ms == NOW_MS + frame.id
            if model.settled is None:
                assert frame.settled is None
            else:
                assert frame.settled is not None
                assert set(settled_indices(frame.settled, RECORD_COUNT)) == model.settled

    @rule(stream=streams, byte_count=st.sampled_from([1, 500, 10**9]), at=st.integers(0, 20))
    def drop_oldest(self, stream: str, byte_count: int, at: int) -> None:
        ids = self._of(stream)
        after_id = ids[at] if at < len(ids) else 0
        expected: list[int] = []
        dropped_bytes = 0
        for one in [one for one in ids if one > after_id]:
            if dropped_bytes >= byte_count:
                break
            expected.append(one)
            dropped_bytes += len(self.frames[one].frame.payload)
        assert self.store.drop_oldest(stream, byte_count, after_id=after_id) == Dropped(
            len(expected),
            len(expected) * RECORD_COUNT,
            dropped_bytes,
            expected[-1] if expected else after_id,
            tuple(
                Settled(one, RECORD_COUNT, len(settled))
                for one in expected
                if (settled := self.frames[one].settled)
            ),
        )
        for one in expected:
            del self.frames[one]

    @precondition(lambda self: self.frames)
    @rule(place=st.integers(0, 50), byte=st.integers(0, 60_000), bit=st.integers(0, 7))
    def damage(self, place: int, byte: int, bit: int) -> None:
        ids = sorted(self.frames)
        model = self.frames[ids[place % len(ids)]]
        payload = bytearray(model.frame.payload)
        payload[byte % len(payload)] ^= 1 << bit
        self.store.upkeep.database.connection.execute(
            "UPDATE frame SET payload = ? WHERE id = ?", (bytes(payload), model.frame.id)
        )
        model.is_damaged = True  # and stays so: another bit may only be the same one again

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self._open()

    @rule(is_under_way=st.booleans())
    def crash(self, is_under_way: bool) -> None:
        """kill -9, also with a transaction half written."""
        connection = self.store.upkeep.database.connection
        if is_under_way:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM frame")
            connection.execute("INSERT INTO letter SELECT * FROM letter WHERE id < 0")
        self.crash_count += 1
        directory = self.root / str(self.crash_count)
        directory.mkdir()
        for name in ("spool.db", "spool.db-wal", "spool.lock"):
            if (self.directory / name).exists():
                shutil.copy(self.directory / name, directory / name)
        if is_under_way:
            connection.execute("ROLLBACK")
        self.store.close()
        self.directory = directory
        self.store = self._open()

    @rule(page_count=st.integers(1, 50))
    def give_back(self, page_count: int) -> None:
        self.store.give_back(page_count)
        assert self.store.sizes.file_bytes >= self.store.sizes.live_bytes

    @rule(places=st.sets(st.integers(0, LETTERS_MAX)))
    def delete_letters_from_outside(self, places: set[int]) -> None:
        with closing(open_view(self.directory)) as view:
            ids = [letter.id for letter in view.letters.select(ALL)]
            doomed = tuple(one for place, one in enumerate(ids) if place in places)
            view.letters.delete(LetterFilter(ids=doomed))
        self.letters = [one for place, one in enumerate(self.letters) if place not in places]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        stored_totals = {totals.stream: totals for totals in self.store.stored_totals()}
        for stream in ("orders", "clicks"):
            ids = self._of(stream)
            if not ids:
                assert stream not in stored_totals
                continue
            totals = stored_totals[stream]
            assert (totals.frame_count, totals.first_id, totals.last_id) == (
                len(ids),
                ids[0],
                ids[-1],
            )
            assert totals.record_count == RECORD_COUNT * len(ids)
            assert totals.byte_count == sum(len(self.frames[one].frame.payload) for one in ids)
            assert totals.oldest_ms == NOW_MS + ids[0]
        assert self.store.next_id > max(self.frames, default=0)
        assert [letter.attempts for letter in self.store.letters.select(ALL)] == self.letters
        assert self.store.letters.count(ALL).letter_count == len(self.letters)

    @invariant()
    def verify_finds_what_was_damaged_and_nothing_else(self) -> None:
        verification = self.store.verify()
        damaged = sorted(one for one in self.frames if self.frames[one].is_damaged)
        assert verification.problems == []
        assert verification.corrupt_ids == damaged
        assert verification.frame_count == len(self.frames)
        assert verification.quarantine_count == self.quarantined


# Each step fsyncs; a run of 25 steps takes about 0.1 s.
StoreModel.TestCase.settings = settings(
    max_examples=examples(40), stateful_step_count=25, deadline=None
)
TestStoreModel = StoreModel.TestCase
