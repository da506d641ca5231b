"""The dry runs of one stream: what the service says of records without writing them.

Knows one stream and its client; no queue and no pace: a dry run goes past the engine.
The door bounds their number.
Where it sits: `driver.py` has one; `streams/stream.py` asks it for the door.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError
from kdaemon.base.record import Record
from kdaemon.route.shard_map import keyless_key
from kdaemon.settle.verdict import INTERNAL, UNAVAILABLE

log = logging.getLogger("kdaemon.send")


class Client(Protocol):
    """The part of a client that is needed here."""

    async def dry_run(self, target: StreamTarget, records: list[Record]) -> ServiceError: ...


class DryRuns:
    """In the loop's thread only."""

    def __init__(self, target: StreamTarget, client: Client) -> None:
        self._target = target
        self._client = client
        self._asking: set[asyncio.Task[ServiceError]] = set()

    @property
    def is_asking(self) -> bool:
        """Whether a client waits for an answer."""
        return bool(self._asking)

    def ask(
        self,
        records: list[Record],
        told: Callable[[ServiceError], object],
        timeout_s: float,
        arn: str | None,
    ) -> None:
        """Asks the service what would become of these records. `told` gets its answer, once; or
        after `timeout_s` an error. `arn`: the client named the stream by it, so the service is
        asked by it; None: the client used the name.
        """

        def answered(asking: asyncio.Task[ServiceError]) -> None:
            self._asking.discard(asking)
            if not asking.cancelled():
                told(asking.result())

        asking = asyncio.get_running_loop().create_task(self._answer(records, timeout_s, arn))
        self._asking.add(asking)
        asking.add_done_callback(answered)

    async def _answer(
        self, records: list[Record], timeout_s: float, arn: str | None
    ) -> ServiceError:
        target = self._target if arn is None else StreamTarget(self._target.name, arn)
        asked = [  # as they would be sent: the wire cannot carry a record without a key
            each
            if each.partition_key
            else Record(each.data, keyless_key(number), each.explicit_hash_key)
            for number, each in enumerate(records)
        ]
        try:
            async with asyncio.timeout(timeout_s):
                return await self._client.dry_run(target, asked)
        except TimeoutError:
            text = f"The service did not answer a dry run within {timeout_s:g} s."
            return ServiceError(UNAVAILABLE, text, status=503)
        except Exception:
            fields = {"stream": self._target.qualified.text}
            log.exception("a dry run broke: a defect of kdaemon", extra={"fields": fields})
            return ServiceError(INTERNAL, "kdaemon failed to ask.", status=500)

    async def aclose(self) -> None:
        """Asks no more; nobody is told."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
