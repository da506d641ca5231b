"""`kdaemon put --endpoint`: the same records over HTTP, where the Unix socket cannot be reached.

One request at a time, of NDJSON, each answered in full before the next: simpler and slower than the
socket (`put.py`), whose totals and blocks it shares. A daemon that is full (503) is asked again
after what its `Retry-After` says: it took nothing of that request. Nothing else is sent again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import aiohttp
import msgspec

from kdaemon.put.unix import Block, PutError, Totals

REQUEST_BYTES_MAX = 2 * 1024 * 1024  # of one request, unless one record is larger; ours, 2026-11-21
RETRY_AFTER_MAX_S = 30.0  # seconds; a daemon that asks for more is asked sooner
RETRY_AFTER_S = 1.0  # seconds, where the daemon names none


class _Rejected(msgspec.Struct):
    line: int  # of the request, from 1
    code: str
    message: str


class _Answer(msgspec.Struct):
    acknowledged: int
    rejected: list[_Rejected] = []


class HttpPut:
    """NDJSON over HTTP to one stream of the daemon at `endpoint` (`HOST:PORT` or a URL)."""

    def __init__(
        self,
        stream: str,
        acknowledge: str,
        totals: Totals,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = f"/v1/streams/{quote(stream, safe='')}/records"
        self._headers = {
            "Content-Type": "application/x-ndjson",
            "X-Kdaemon-Acknowledge": acknowledge,
        }
        self._totals = totals
        self._on_progress = on_progress

    async def send(self, endpoint: str, blocks: AsyncIterator[Block]) -> None:
        """Send all and hear all answers. PutError where that cannot be; the totals then stand."""
        base = endpoint if "://" in endpoint else f"http://{endpoint}"
        url = base.rstrip("/") + self._path
        try:
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
                async for block in blocks:
                    for part in _split(block):
                        self._totals.sent += len(part.lines)
                        self._settle(part, await self._post(session, url, part))
                        self._on_progress()
        except aiohttp.ClientConnectorError as error:
            raise PutError(
                f"no daemon answers at {base} ({error.strerror or error}): "
                "start it with `kdaemon run`, or name its address with --endpoint"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PutError(
                f"the connection to {base} failed ({type(error).__name__}); of the "
                f"{self._totals.open} records under way nobody knows what was taken"
            ) from error

    async def _post(self, session: aiohttp.ClientSession, url: str, part: Block) -> _Answer:
        body = b"".join(part.lines)
        while True:
            async with session.post(url, data=body, headers=self._headers) as response:
                text = await response.read()
                retry_after = response.headers.get("Retry-After", "")
            if response.status == 503:
                await asyncio.sleep(_retry_after_s(retry_after))
                continue
            if response.status not in (200, 207):
                reason = text[:300].decode(errors="replace").strip()
                raise PutError(f"the daemon refuses: HTTP {response.status} {reason}")
            try:
                return msgspec.json.decode(text, type=_Answer)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise PutError(
                    "what answers there is no kdaemon: its answer is not ours"
                ) from error

    def _settle(self, part: Block, answer: _Answer) -> None:
        if answer.acknowledged + len(answer.rejected) != len(part.lines):
            raise PutError(
                f"the daemon answered for {answer.acknowledged + len(answer.rejected)} records "
                f"of {len(part.lines)}: nobody knows what became of the others"
            )
        self._totals.acknowledged += answer.acknowledged
        for rejected in answer.rejected:
            is_ours = 1 <= rejected.line <= len(part.numbers)
            number = part.numbers[rejected.line - 1] if is_ours else None
            self._totals.reject(number, f"{rejected.code}: {rejected.message}", is_sent=True)


def _split(block: Block) -> list[Block]:
    """Parts of at most REQUEST_BYTES_MAX."""
    parts: list[Block] = []
    part_bytes = REQUEST_BYTES_MAX
    for line, number in zip(block.lines, block.numbers, strict=True):
        if part_bytes + len(line) > REQUEST_BYTES_MAX:
            parts.append(Block([], []))
            part_bytes = 0
        parts[-1].lines.append(line)
        parts[-1].numbers.append(number)
        part_bytes += len(line)
    return parts


def _retry_after_s(header: str) -> float:
    return min(float(header), RETRY_AFTER_MAX_S) if header.isdecimal() else RETRY_AFTER_S
