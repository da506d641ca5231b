"""The service of a soak: the oracle, which reads aggregates too, has long outages, and refuses a
call that was signed at another time of day, as AWS does.
"""

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.crash.oracle import FAIR_S, FOUL_S, Call, Oracle, Weather
from tests.crash.records import Source
from tests.kit.aggregates import python_reads

MAGIC = b"\xf3\x89\x9a\xc2"  # how an aggregate begins
SKEW_S_MAX = 300.0  # AWS refuses signatures that are five minutes off
ANSWERED_COUNT = 10_000  # aggregates of calls that were answered long ago: forgotten at this many


@dataclass(frozen=True, slots=True)
class Outages:
    """Long ones, beside those of the weather: one each `every_s`, for `lasts_s`."""

    every_s: float
    lasts_s: float


class Service(Oracle):
    """An aggregate has an id of its own below 0 while a call is looked at; what is in it is taken
    in its place.
    """

    def __init__(
        self,
        sources: Mapping[int, Source],
        seed: int,
        ordered: frozenset[str],
        outages: Outages,
    ) -> None:
        super().__init__(sources, seed, ordered)
        self.aggregate_count = 0
        self.wrong_clock_count = 0  # calls that were signed at another time
        self.outage_count = 0  # long ones
        self._outages = outages
        self._inside: dict[int, list[int]] = {}

    async def _change(self) -> None:
        foul = list(FOUL_S)
        outage_at_s = time.monotonic() + self._outages.every_s / 2
        while True:
            self.weather = Weather.FAIR
            await asyncio.sleep(self._dice.uniform(*FAIR_S))
            if time.monotonic() >= outage_at_s:
                outage_at_s += self._outages.every_s
                self.outage_count += 1
                self.weather, lasts_s = Weather.OUTAGE, self._outages.lasts_s
            else:
                self._begin(self._dice.choice(foul))
                lasts_s = self._dice.uniform(*FOUL_S[self.weather])
            if self.weather is Weather.OUTAGE:
                self._abort_all()
            await asyncio.sleep(lasts_s)

    def _refusal(self, headers: Mapping[str, str]) -> bytes | None:
        signed = datetime.strptime(headers["x-amz-date"].upper(), "%Y%m%dT%H%M%SZ")
        ahead_s = signed.replace(tzinfo=UTC).timestamp() - time.time()
        if abs(ahead_s) <= SKEW_S_MAX:
            return None
        self.wrong_clock_count += 1
        what = "not yet current" if ahead_s > 0 else "expired"
        answer = {"__type": "InvalidSignatureException", "message": f"Signature {what}: {signed}"}
        return json.dumps(answer).encode()

    def _identify(self, stream: str, entry: dict[str, Any]) -> int | None:
        data = base64.b64decode(entry["Data"], validate=True)
        if not data.startswith(MAGIC):
            return super()._identify(stream, entry)
        ids: list[int] = []
        for key, hash_key, inner in python_reads(data):
            user = {"Data": base64.b64encode(inner).decode(), "PartitionKey": key}
            if hash_key:
                user["ExplicitHashKey"] = hash_key
            record_id = super()._identify(stream, user)
            if record_id is None:
                return None
            ids.append(record_id)
        self.aggregate_count += 1
        aggregate_id = -(10**12) - self.aggregate_count
        self._inside[aggregate_id] = ids
        return aggregate_id

    async def _put_records(self, *arguments: Any) -> bool:
        try:
            return await super()._put_records(*arguments)
        finally:
            if len(self._inside) > ANSWERED_COUNT:
                self._inside.clear()

    def _take(self, call: Call, ids: list[int | None], *, is_untold: bool = False) -> None:
        users: list[int | None] = []
        for each in ids:
            assert each is not None
            users += self._inside.pop(each, [each])
        super()._take(call, users, is_untold=is_untold)
