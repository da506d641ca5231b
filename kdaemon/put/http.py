"""`kdaemon put --endpoint`: sends the records over HTTP, where the Unix socket cannot be reached.

Requests of NDJSON go one at a time, and each is answered in full before the next: simpler and
slower than the socket (`unix.py`), whose totals and blocks this file shares. It calls only the
address that it was given: it follows no redirect and uses no proxy. It reads answers as they are,
up to a bound.
Invariant: a record is sent again only after an answer which says that nothing of its request was
taken, and that it may be sent again (503, 429) or that other lines are the reason (400).
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from kdaemon.base.redact import masked_url
from kdaemon.base.text import printable
from kdaemon.put.signing import Signer
from kdaemon.put.unix import Block, Put, PutError
from kdaemon.put.waiting import Person, Totals, watched

REQUEST_BYTES_MAX = 2 * 1024 * 1024  # of one request, unless one record is larger; ours, 2026-11-21
ANSWER_BYTES_MAX = (
    4 * 1024 * 1024
)  # of one answer: 1,000 rejected lines with 4 KB; ours, 2026-11-28
RETRY_AFTER_MAX_S = 30.0  # seconds; a daemon that asks for a longer wait is asked sooner
RETRY_AFTER_MIN_S = 0.1  # seconds; a daemon that asks for a shorter wait is asked later
RETRY_AFTER_S = 1.0  # seconds, if the daemon does not say
WAIT_MAX_S = (
    3600.0  # an hour of "ask again", and nothing was taken: nobody mends it. Ours, 2026-11-28
)
SHOWN_CHARACTERS_MAX = 300  # of an answer's text, in an error

PROMISES = ("accepted", "stored", "delivered")  # from the weakest to the strongest

# The daemon's codes for a line that it cannot read, or that breaks a limit (`wire/lines.py`).
_CODES_OF_LINES = frozenset({"ValidationException", "SerializationException"})
_ASK_AGAIN = frozenset({429, 503})


class _Rejected(msgspec.Struct):
    line: int  # of the request, from 1
    code: str
    message: str = ""

    @property
    def reason(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class _Answer(msgspec.Struct):
    """`rejected_count`: given if more lines were rejected than are named."""

    acknowledged: int
    rejected: list[_Rejected] = []
    rejected_count: int | None = None

    @property
    def count(self) -> int:
        return len(self.rejected) if self.rejected_count is None else self.rejected_count


class _Refusal(msgspec.Struct, rename={"code": "__type"}):
    """The body of an error status. All of it may be missing: another server, or an older daemon."""

    code: str = ""
    message: str = ""
    acknowledged: int = 0
    rejected: list[_Rejected] = []


@dataclass(frozen=True, slots=True)
class _Response:
    """An answer, read to its end. `promise`: the acknowledgement that it gives; None: it does not
    say.
    """

    status: int
    retry_after: str
    promise: str | None
    text: bytes


class HttpPut(Put):
    """Sends NDJSON over HTTP to the daemon at `endpoint` (`HOST:PORT` or a URL)."""

    def __init__(
        self,
        stream: str | None,
        acknowledge: str,
        totals: Totals,
        person: Person,
        signer: Signer | None = None,
        ca_file: str | None = None,
    ) -> None:
        """`signer`: signs each request, for a daemon that requires it. `ca_file`: certificates to
        trust; None: the system's. Raises PutError if it cannot be used.
        """
        super().__init__(stream, acknowledge, totals, person)
        self._trust = None if ca_file is None else _trust(ca_file)
        self._headers = {
            "Content-Type": "application/x-ndjson",
            "Accept-Encoding": "identity",
            "X-Kdaemon-Acknowledge": acknowledge,
            "X-Kdaemon-Lines": "envelope",  # whatever the form of the stream's lines is otherwise
        }
        self._signer = signer

    async def send(self, endpoint: str, blocks: AsyncIterator[Block]) -> None:
        """Sends all blocks and reads all answers. Raises PutError; the totals hold up to then."""
        base, shown = _endpoint(endpoint)
        try:
            connector = aiohttp.TCPConnector(ssl=True if self._trust is None else self._trust)
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                ) as session,
                watched(self._totals, self._person, lambda: self._totals.awaited),
            ):
                async for block in blocks:
                    for stream, part in self._parts(block):
                        path = f"/v1/streams/{quote(stream, safe='')}/records"
                        url = URL(str(base).rstrip("/") + path, encoded=True)
                        self._totals.sent += len(part.lines)
                        try:
                            await self._put(session, url, part)
                        except aiohttp.ClientConnectorError:  # the part has not left
                            self._totals.sent -= self._totals.open
                            raise
                        self._person.on_progress()
        except aiohttp.ClientConnectorCertificateError as error:
            raise PutError(
                f"the certificate of {shown} is not trusted ({error.certificate_error}): name its"
                " authority with --ca-file, and call the daemon by a name that the certificate has"
            ) from error
        except aiohttp.ClientConnectorSSLError as error:
            raise PutError(
                f"{shown} does not speak TLS as this command does ({error.strerror}): is it plain"
                " HTTP? Then say http://"
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise PutError(
                f"no daemon answers at {shown} ({error.strerror or type(error).__name__}): "
                "start it with `kdaemon run`, or name its address with --endpoint"
            ) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PutError(
                f"the connection to {shown} failed ({type(error).__name__}); of the "
                f"{self._totals.open} records under way nobody knows what was taken"
            ) from error

    def _parts(self, block: Block) -> list[tuple[str, Block]]:
        """What each request has, and the stream that it is for: lines of one stream, in their
        order; REQUEST_BYTES_MAX at most, or one larger line.
        """
        parts: list[tuple[str, Block]] = []
        last: dict[str, Block] = {}
        room: dict[str, int] = {}  # bytes, in the last part of a stream
        streams = block.streams or [self._stream or ""] * len(block.lines)
        for line, number, stream in zip(block.lines, block.numbers, streams, strict=True):
            if room.get(stream, 0) < len(line):
                last[stream] = Block()
                room[stream] = REQUEST_BYTES_MAX
                parts.append((stream, last[stream]))
            last[stream].lines.append(line)
            last[stream].numbers.append(number)
            room[stream] -= len(line)
        return parts

    async def _put(self, session: aiohttp.ClientSession, url: URL, part: Block) -> None:
        """Sends a part until all of its lines are acknowledged or rejected."""
        while part.lines:
            response = await self._post_patiently(session, url, b"".join(part.lines))
            if response.status in (200, 207):
                self._settle(part, self._read(response))
                return
            refusal = _refusal(response.text)
            if response.status == 500:
                self._give_up(part, refusal, response)
            if response.status != 400 or not refusal.rejected or refusal.acknowledged:
                self._end_part(part, refusal, response)
                return
            # These lines are the reason that nothing was taken; the others may go without them.
            left = self._without(part, refusal.rejected)
            self._person.on_progress()
            if not left.lines and _is_of_request(refusal):
                self._end_part(left, refusal, response)
            part = left

    def _end_part(self, part: Block, refusal: _Refusal, response: _Response) -> None:
        """Nothing of the part is taken, if a daemon says so. Where lines name their own streams,
        the refusal is about one stream, and others go on. Else the next request would be refused in
        the same way. Raises PutError.
        """
        told = _told(response, refusal)
        is_nothing_taken = refusal.code and response.status < 500 and not refusal.acknowledged
        if is_nothing_taken:
            for number in part.numbers:
                self._totals.reject(number, told, is_sent=True)
        if not is_nothing_taken or self._stream is not None:
            raise PutError(f"the daemon refuses: {told}")

    async def _post_patiently(
        self, session: aiohttp.ClientSession, url: URL, body: bytes
    ) -> _Response:
        """The first answer other than "ask again". PutError after WAIT_MAX_S."""
        loop = asyncio.get_running_loop()
        began_s: float | None = None  # when it was first told to ask again
        while True:
            response = await self._post(session, url, body)
            if response.status not in _ASK_AGAIN:
                self._totals.waits_for = None
                return response
            told = _told(response, _refusal(response.text))
            began_s = loop.time() if began_s is None else began_s
            waited_s = loop.time() - began_s
            if waited_s >= WAIT_MAX_S:
                raise PutError(
                    f"the daemon took nothing for {waited_s:,.0f} s and says so each time: {told}"
                )
            self._totals.waits_for = told
            self._person.on_progress()
            await asyncio.sleep(retry_after_s(response.retry_after))

    async def _post(self, session: aiohttp.ClientSession, url: URL, body: bytes) -> _Response:
        headers: dict[str, str] = self._headers
        if self._signer is not None:
            headers = headers | self._signer.sign(url, headers, body)
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            if answer.status in range(300, 400):
                where = answer.headers.get("Location", "somewhere else")
                raise PutError(
                    f"what answers there redirects (HTTP {answer.status} to {_masked(where)}), and "
                    "a daemon never does: name the daemon itself with --endpoint"
                )
            encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                raise PutError(
                    f"what answers there encodes its answer ({encoding[:50]}), which was not asked "
                    f"for: no kdaemon, and of the {self._totals.open} records under way nobody "
                    "knows what was taken"
                )
            text = bytearray()
            async for piece in answer.content.iter_any():
                text += piece
                if len(text) > ANSWER_BYTES_MAX:
                    raise PutError(
                        f"what answers there is no kdaemon: its answer is longer than "
                        f"{ANSWER_BYTES_MAX} bytes"
                    )
            return _Response(
                answer.status,
                answer.headers.get("Retry-After", ""),
                answer.headers.get("X-Kdaemon-Acknowledge"),
                bytes(text),
            )

    def _read(self, response: _Response) -> _Answer:
        try:
            answer = msgspec.json.decode(response.text, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PutError("what answers there is no kdaemon: its answer is not ours") from error
        promise = response.promise or self._acknowledge
        if answer.acknowledged and _rank(promise) < _rank(self._acknowledge):
            raise PutError(
                f"the daemon promises `{promise[:50]}` for {answer.acknowledged} records, where "
                f"`{self._acknowledge}` was asked for"
            )
        return answer

    def _settle(self, part: Block, answer: _Answer) -> None:
        answered = answer.acknowledged + answer.count
        if answered != len(part.lines) or min(answer.acknowledged, answer.count) < 0:
            raise PutError(
                f"the daemon answered for {answered} records "
                f"of {len(part.lines)}: nobody knows what became of the others"
            )
        for rejected in answer.rejected[: answer.count]:
            self._totals.reject(_number(part, rejected), rejected.reason, is_sent=True)
        for _ in range(answer.count - len(answer.rejected)):
            self._totals.reject(None, "not named by the daemon", is_sent=True)
        self._totals.acknowledged += answer.acknowledged

    def _without(self, part: Block, rejected: list[_Rejected]) -> Block:
        """Counts the named lines as rejected, and returns the others."""
        gone = {each.line: each for each in rejected if 1 <= each.line <= len(part.lines)}
        if len(gone) != len(rejected):
            raise PutError("what answers there is no kdaemon: it rejects lines that were not sent")
        for line, each in sorted(gone.items()):
            self._totals.reject(part.numbers[line - 1], each.reason, is_sent=True)
        kept = [at for at in range(len(part.lines)) if at + 1 not in gone]
        return Block([part.lines[at] for at in kept], [part.numbers[at] for at in kept])

    def _give_up(self, part: Block, refusal: _Refusal, response: _Response) -> None:
        """Counts what is known, and raises: the outcome of the rest is unknown. Nothing is sent
        again.
        """
        known = [each for each in refusal.rejected if each.code != "InternalFailure"]
        if 0 <= refusal.acknowledged <= len(part.lines) - len(known):
            for each in known:
                self._totals.reject(_number(part, each), each.reason, is_sent=True)
            self._totals.acknowledged += refusal.acknowledged
        raise PutError(
            f"the daemon failed: {_told(response, refusal)}; of {self._totals.open} records nobody "
            "knows what was taken, and they are not sent again"
        )


def _is_of_request(refusal: _Refusal) -> bool:
    """Whether all lines were rejected for a common reason: no spool, or a promise that the stream
    cannot give. The next request would be refused in the same way.
    """
    codes = {each.code for each in refusal.rejected}
    return codes == {refusal.code} and not codes & _CODES_OF_LINES


def _number(part: Block, rejected: _Rejected) -> int | None:
    """The number of a rejected line in the file; None: the daemon names no line of ours."""
    is_ours = 1 <= rejected.line <= len(part.numbers)
    return part.numbers[rejected.line - 1] if is_ours else None


def _refusal(text: bytes) -> _Refusal:
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(text, type=_Refusal)
    return _Refusal()


def _told(response: _Response, refusal: _Refusal) -> str:
    """The status and the reason of an answer, bounded."""
    said = ": ".join(each for each in (refusal.code, refusal.message) if each)
    said = said or response.text[: 4 * SHOWN_CHARACTERS_MAX].decode(errors="replace").strip()
    return f"HTTP {response.status} {said[:SHOWN_CHARACTERS_MAX]}".strip()


def _rank(promise: str) -> int:
    """The strength of an acknowledgement; an unknown one is the weakest."""
    return PROMISES.index(promise) if promise in PROMISES else -1


def _trust(path: str) -> ssl.SSLContext:
    """A context that trusts the certificates in the file, and no others. Raises PutError."""
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        reason = "it holds no certificate in the form PEM"
        raise PutError(f"--ca-file {printable(path)} cannot be used: {reason}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PutError(f"--ca-file {printable(path)} cannot be read: {reason}") from error


def _endpoint(text: str) -> tuple[URL, str]:
    """The address, and its shown form without a password. Raises PutError."""
    try:
        url = URL(text if "://" in text else f"http://{text}")
        is_usable = url.scheme in ("http", "https") and bool(url.host)
        url.port  # noqa: B018 - raises for a bad port
    except ValueError:
        is_usable = False
    if not is_usable:
        raise PutError(
            f"--endpoint {_masked(text)} is no address: expected HOST:PORT or http(s)://HOST:PORT"
        )
    return url, _masked(str(url))


def _masked(address: str) -> str:
    """The address without its password, also without a scheme; bounded."""
    start = "" if "//" in address else "//"
    return masked_url(start + address).removeprefix(start)[:SHOWN_CHARACTERS_MAX]


def retry_after_s(header: str) -> float:
    """How long to wait before the request is made again, by the header Retry-After."""
    if not (header.isascii() and header.isdecimal()):
        return RETRY_AFTER_S
    return max(RETRY_AFTER_MIN_S, min(float(header), RETRY_AFTER_MAX_S))
