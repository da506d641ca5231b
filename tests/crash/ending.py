"""The end of a run: faults are over; what is left is delivered, what is new flows, and all of it is
counted.

Knows a life of the daemon, its clients and its spool; not what was done to it before. What is wrong
goes into `problems`. Invariant: nothing here waits longer than `patience_s` without progress.
Where it sits: crasher.py and soak.py, which then recount (verdict.py).
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kdaemon.spool.letters import LetterFilter
from kdaemon.spool.view import StoreView
from tests.crash.clients import Client, Session
from tests.crash.process import Life
from tests.crash.records import Source, is_poison, read_ident
from tests.kit.daemon import Metrics, get

PAUSE_S = 0.05  # between two looks at what cannot be waited for
PROMISING = frozenset({"stored", "delivered"})  # words that are held to account

Talkers = list[tuple[Client, Session]]


def promised(clients: Talkers) -> Iterator[int]:
    for client, _ in clients:
        if client.acknowledge in PROMISING:
            yield from client.promises.kept


class Ending:
    """Of one run."""

    def __init__(
        self,
        clients: Talkers,
        sources: Mapping[int, Source],
        problems: list[str],
        patience_s: float,
        is_taken: Callable[[int], bool],
    ) -> None:
        self._clients = clients
        self._sources = sources
        self._problems = problems
        self._patience_s = patience_s
        self._is_taken = is_taken

    async def hear_all(self, talking: list[asyncio.Task[None]]) -> None:
        """Clients send nothing new, and hear what became of what they sent."""
        for client, _ in self._clients:
            client.stop()
        _, late = await asyncio.wait(talking, timeout=self._patience_s)
        see_to(talking)
        if late:
            names = ", ".join(task.get_name() for task in late)
            self._problems.append(f"still waiting for answers: {names}")

    async def wait_taken(self, life: Life) -> None:
        """Until all that was promised is in the service, but for what it refuses; or nothing more
        of it comes: then the recount says what is missing.
        """
        missing = [each for each in promised(self._clients) if not is_poison(each)]
        until_s = time.monotonic() + self._patience_s
        while missing and time.monotonic() < until_s and not life.has_ended:
            await asyncio.sleep(PAUSE_S)
            left = [each for each in missing if not self._is_taken(each)]
            if len(left) < len(missing):
                until_s = time.monotonic() + self._patience_s
            missing = left

    async def send_fresh(self, fresh: Talkers) -> None:
        """Liveness: new records, on each way in, arrive. `fresh`: clients that ask for a delivery,
        and are among all clients already.
        """
        for client, session in fresh:
            talking = asyncio.create_task(client.run(session))
            until_s = time.monotonic() + self._patience_s
            while not client.promises.kept and time.monotonic() < until_s:
                await asyncio.sleep(PAUSE_S)
            client.stop()
            await asyncio.wait([talking], timeout=self._patience_s)
            if not client.promises.kept:
                self._problems.append(f"no fresh record by source {client.source.index}")

    async def settled(self, life: Life) -> None:
        """Nothing is buffered and nothing in flight: then every record is in one counter."""
        metrics = await self._wait_settled(life)
        for name in ("unaccounted", "buffered", "in_flight", "dropped_total"):
            count = metrics.total(f"kdaemon_records_{name}")
            if count:
                self._problems.append(f"at the end records_{name} is {count}")
        for stream in metrics.streams:
            count = metrics.left_over(stream)
            if count:
                self._problems.append(f"at the end {count} records of {stream} are in no counter")

    async def _wait_settled(self, life: Life) -> Metrics:
        names = ("kdaemon_records_buffered", "kdaemon_records_in_flight")
        until_s = time.monotonic() + self._patience_s
        url = f"http://127.0.0.1:{life.ports['admin']}/metrics"
        while True:
            status, text = await asyncio.to_thread(get, url)
            assert status == 200, life.tell(f"answers a scrape with {status}: {text}")
            metrics = Metrics(text)
            if not any(metrics.total(name) for name in names) or time.monotonic() > until_s:
                return metrics
            await asyncio.sleep(PAUSE_S)

    def letters(self, spool: Path) -> list[int]:
        """Ids of the dead letters that the stopped daemon left, each of them whole; and nothing
        else may be left.
        """
        view = StoreView(str(spool))
        try:
            left = [f"{each.stream}: {each.frame_count}" for each in view.stored_totals()]
            if left:
                self._problems.append(f"frames are left in the spool: {', '.join(left)}")
            found = []
            for letter in view.letters.select(LetterFilter()):
                index, number = read_ident(letter.data)
                source = self._sources[index]
                stream = letter.stream.rpartition("/")[2]  # of another upstream: @UPSTREAM/NAME
                is_same = (letter.data, stream) == (source.make(number).data, source.stream)
                if not is_same or not letter.is_intact:
                    self._problems.append(f"dead letter {index}.{number} is another")
                found.append(source.id_of(number))
            return found
        finally:
            view.close()


def see_to(talking: list[asyncio.Task[None]]) -> None:
    """A client that fell over is a defect of the test, and is heard of at once."""
    for task in talking:
        if task.done():
            task.result()
