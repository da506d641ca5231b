"""`/tap` of a supervisor: the samples of all workers, as one.

About: each worker looks at its records for the same time (observe/tap.py). Of their samples as many
records are shown as one daemon would show; each worker's part is its part of all records seen.
Where it sits: pages.py -> here -> crew.py.
"""

import asyncio
import json
from collections.abc import Sequence

from kdaemon.daemon.crew import Crew
from kdaemon.http.request import HttpRequest
from kdaemon.observe.slices import Page
from kdaemon.observe.tap import ENDED, MANY, NDJSON, RECORDS_MAX, TAPS_MAX, what_is_asked


class WorkersTaps:
    """As `admin.Looks`."""

    def __init__(self, crew: Crew, *, is_on: bool) -> None:
        self._crew = crew
        self._is_on = is_on
        self._looking: dict[asyncio.Task[None], HttpRequest] = {}

    def allow(self, *, is_on: bool) -> None:
        """Sets whether anybody may look, from now on. Off: looks that go on end."""
        self._is_on = is_on
        if not is_on:
            self.close()

    def ask(self, request: HttpRequest) -> None:
        """Answers at the end of the look, or at once with the reason why there is none."""
        asked = what_is_asked(request, is_on=self._is_on)
        if asked is None:
            return
        if len(self._looking) >= TAPS_MAX:
            Page(503, MANY).give(request)
            return
        stream, with_data = asked
        look = self._look(request, stream, with_data=with_data)
        looking = asyncio.get_running_loop().create_task(look)
        self._looking[looking] = request
        looking.add_done_callback(lambda done: self._looking.pop(done, None))
        request.on_gone = looking.cancel

    def close(self) -> None:
        """Ends all looks; clients that wait for one are told so."""
        for looking, request in list(self._looking.items()):
            looking.cancel()
            Page(503, ENDED).give(request)
        self._looking.clear()

    async def _look(self, request: HttpRequest, stream: str, *, with_data: bool) -> None:
        answers = await self._crew.ask("tap", stream, with_data, whom=self._crew.members)
        pages = [each.parts[0] for each in answers.values() if each.parts]
        found = [body for status, body in pages if status == 200]
        if not found:
            status, body = pages[0] if pages else (503, b"No worker answers.\n")
            Page(status, body).give(request)
        else:
            Page(200, together(found), NDJSON).give(request)


def together(samples: Sequence[bytes]) -> bytes:
    """Joins samples of NDJSON, whose first lines say how many records were seen, into one."""
    parts = [(json.loads(head)["seen"], lines) for head, *lines in map(bytes.splitlines, samples)]
    seen = sum(count for count, _ in parts)
    shown: list[bytes] = []
    for count, lines in parts:
        shown += lines[: -(-RECORDS_MAX * count // max(1, seen))]
    shown = shown[:RECORDS_MAX]
    head = json.dumps({"seen": seen, "shown": len(shown)}, separators=(",", ":")).encode()
    return b"".join(line + b"\n" for line in (head, *shown))
