"""The packer against plain sums: its invariants after any sequence of operations."""

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kdaemon.base.frame import Frame
from kdaemon.pace.budget import ShardBudget
from kdaemon.pack.batch import Batch
from kdaemon.pack.lane import Lane, LaneState
from kdaemon.pack.run import Run
from tests.kit.depth import examples
from tests.kit.frames import MS, sized_frame
from tests.kit.queues import dropped, make_packer

RECORDS_MAX, BYTES_MAX = 8, 40_000  # a large record is more than a slice of 16 KiB


class PackerMachine(RuleBasedStateMachine):
    """`homes` says where each record that was ever queued is: its lane, "sent" or "gone"."""

    def __init__(self) -> None:
        super().__init__()
        self.packer = make_packer(records_max=RECORDS_MAX, bytes_max=BYTES_MAX)
        self.now_ns = 0
        self.lane_count = 0
        self.retired: list[Lane] = []
        self.frames: list[Frame] = []
        self.sent: list[Batch] = []
        self.where: Counter[str] = Counter()
        self.packer.replace_lanes([self.make_lane() for _ in range(3)])

    def make_lane(self) -> Lane:
        self.lane_count += 1
        return Lane(f"s{self.lane_count}", ShardBudget(10, 20_000, self.now_ns, 1.0))

    def pick(self, number: int) -> Lane:
        return self.packer.lanes[number % len(self.packer.lanes)]

    @rule(
        lane=st.integers(0, 9),
        sizes=st.lists(st.integers(1, BYTES_MAX), min_size=1, max_size=9),
        client=st.integers(0, 4),
    )
    def push(self, lane: int, sizes: list[int], client: int) -> None:
        frame = sized_frame(sizes)
        frame.client = client
        self.frames.append(frame)
        run = Run(frame, list(range(len(sizes))), sum(sizes), self.pick(lane))
        self.packer.push_all([run], self.now_ns)
        self.where["queued"] += len(sizes)

    @rule(
        lane=st.integers(0, 9),
        sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30),
        client=st.integers(0, 4),
    )
    def push_small(self, lane: int, sizes: list[int], client: int) -> None:
        self.push(lane, sizes, client)

    @rule(sizes=st.lists(st.integers(1, 900), min_size=1, max_size=30), client=st.integers(0, 4))
    def push_keyless(self, sizes: list[int], client: int) -> None:
        frame = sized_frame(sizes)
        frame.client = client
        self.frames.append(frame)
        indices = list(range(len(sizes)))
        run = Run(frame, indices, sum(sizes), self.packer.keyless_lane, is_keyless=True)
        self.packer.push_all([run], self.now_ns)
        self.where["queued"] += len(sizes)

    @rule()
    def draw(self) -> None:
        self.packer.wake(self.now_ns)
        batch = self.packer.draw(self.now_ns)
        if batch is None:
            assert not self.packer.has_ready, "what was ready was drawn or waits"
            return
        assert 0 < len(batch.records) <= RECORDS_MAX
        assert batch.byte_count <= BYTES_MAX
        assert batch.byte_count == sum(run.byte_count for run in batch.runs)
        assert len(batch.records) == sum(len(run.indices) for run in batch.runs)
        for run in batch.runs:
            assert run.byte_count == sum(run.frame.sizes[index] for index in run.indices)
            assert run.indices == sorted(run.indices)
            assert run.lane.blocked_until_ns <= self.now_ns, "its shard backs off"
        self.sent.append(batch)
        self.where["queued"] -= len(batch.records)

    @precondition(lambda self: self.sent)
    @rule()
    def fail_last_call(self) -> None:
        """Everything of the batch goes back, before what was not tried."""
        for run in reversed(self.sent.pop().runs):
            is_retired = run.lane.state is LaneState.RETIRED and not run.is_keyless
            if run.frame.is_abandoned or is_retired:
                continue
            again = Run(
                run.frame,
                run.indices,
                run.byte_count,
                self.packer.keyless_lane if run.is_keyless else run.lane,
                run.attempt_count + 1,
                is_keyless=run.is_keyless,
            )
            self.packer.push_front(again, self.now_ns)
            self.where["queued"] += len(run.indices)

    @rule(lane=st.integers(0, 9), wait_ns=st.integers(0, 500 * MS))
    def postpone(self, lane: int, wait_ns: int) -> None:
        self.packer.postpone(self.pick(lane), self.now_ns + wait_ns, self.now_ns)

    @rule(wait_ns=st.integers(0, 400 * MS))
    def pass_time(self, wait_ns: int) -> None:
        self.now_ns += wait_ns

    @rule()
    def jump_to_next_due(self) -> None:
        due_ns = self.packer.next_due_ns()
        if due_ns is not None:
            self.now_ns = max(self.now_ns, due_ns)
            self.packer.wake(self.now_ns)
            assert self.packer.has_ready, "a wake-up that wakes nobody"

    @precondition(lambda self: self.frames)
    @rule(number=st.integers(0, 99))
    def abandon(self, number: int) -> None:
        frame = self.frames[number % len(self.frames)]
        frame.is_abandoned = True
        queued = sum(
            len(run.indices)
            for lane in (*self.packer.lanes, self.packer.keyless_lane)
            for run in lane.runs()
            if run.frame.is_abandoned
        )
        dropped(self.packer)
        self.where["queued"] -= queued

    @rule(kept=st.sets(st.integers(0, 4), max_size=4), new=st.integers(0, 2))
    def replace_lanes(self, kept: set[int], new: int) -> None:
        lanes = [lane for number, lane in enumerate(self.packer.lanes) if number in kept]
        lanes += [self.make_lane() for _ in range(new)]
        if not lanes:
            return
        gone = [lane for lane in self.packer.lanes if lane not in lanes]
        orphans = [run for queue in self.packer.replace_lanes(lanes) for run in queue]
        self.retired += gone
        assert all(lane.state is LaneState.RETIRED for lane in gone)
        for number, orphan in enumerate(orphans):
            home = self.packer.keyless_lane if orphan.is_keyless else self.pick(number)
            run = Run(
                orphan.frame,
                orphan.indices,
                orphan.byte_count,
                home,
                orphan.attempt_count,
                is_keyless=orphan.is_keyless,
            )
            self.packer.push_all([run], self.now_ns)

    @invariant()
    def the_ring_is_the_ready_lanes(self) -> None:
        ring = self.packer.audit()[0]
        assert len(ring) == len(set(ring))
        lanes = (*self.packer.lanes, self.packer.keyless_lane)
        assert set(ring) == {lane for lane in lanes if lane.state is LaneState.READY}

    @invariant()
    def ready_sums_are_the_sums_over_the_ring(self) -> None:
        ring, _ = self.packer.audit()
        assert self.packer.ready_records == sum(lane.queued_records for lane in ring)
        assert self.packer.ready_bytes == sum(lane.queued_bytes for lane in ring)

    @invariant()
    def lanes_count_what_they_queue(self) -> None:
        keyless = self.packer.keyless_lane
        for lane in (*self.packer.lanes, keyless):
            assert lane.queued_records == sum(len(run.indices) for run in lane.runs())
            assert lane.queued_bytes == sum(run.byte_count for run in lane.runs())
            assert bool(lane.queue) is (lane.state is not LaneState.IDLE)
            assert lane is keyless or all(run.lane is lane for run in lane.runs())
            joined = [run for run in lane.runs() if run.is_keyless and lane is not keyless]
            assert lane.joined_records == sum(len(run.indices) for run in joined)
        queued = sum(lane.queued_records for lane in self.packer.lanes)
        assert queued + keyless.queued_records == self.where["queued"]

    @invariant()
    def a_client_that_waits_is_counted_by_its_runs(self) -> None:
        for lane in self.packer.lanes:
            if lane.turns is None:
                continue
            runs = list(lane.turns.runs())
            parts = [
                lane.turns.part_of(client) for client in range(5)
            ]  # with what failed of others
            assert lane.turns.client_count == sum(records > 0 for records, _ in parts)
            assert sum(records for records, _ in parts) == sum(len(run.indices) for run in runs)
            assert sum(byte_count for _, byte_count in parts) == sum(run.byte_count for run in runs)

    @invariant()
    def every_waiting_lane_is_woken_some_day(self) -> None:
        lanes = (*self.packer.lanes, self.packer.keyless_lane)
        waiting = [lane for lane in lanes if lane.state is LaneState.WAITING]
        entries = set(self.packer.audit()[1])
        assert all((lane.ready_at_ns, lane) in entries for lane in waiting)

    @invariant()
    def the_retired_hold_nothing(self) -> None:
        assert not any(list(lane.runs()) for lane in self.retired)


TestPackerModel = PackerMachine.TestCase
TestPackerModel.settings = settings(
    deadline=None,
    print_blob=True,
    max_examples=examples(60),
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow],
)
