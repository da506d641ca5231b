"""Lines over HTTP: `POST /v1/streams/{stream}/records`, a body of lines, as envelopes or raw.

A body is read in blocks and admitted in blocks, a few in each turn of the loop, so that a large
body does not delay other clients. The whole body is read before any record of it is admitted, so
that a body with too many unreadable lines is refused whole. The memory that the records may need is
reserved before the body is read. Each block's part is given back just before the block is admitted,
so that no other client takes that room.

Invariant: every line that is not blank is received once and counted once, and the answer is true:
200 if all records were taken, 207 if some were not, and a status that says why if none was.
Where it sits: http/ -> here -> door.py.
"""

from collections.abc import Callable
from urllib.parse import unquote

from kdaemon.base.admission import FRAME_FOOTPRINT_BYTES
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.refused import Refused
from kdaemon.base.steps import Steps
from kdaemon.door.admission import Admission
from kdaemon.door.block import Block
from kdaemon.door.door import Door
from kdaemon.door.guard import as_stranger
from kdaemon.door.line_forms import read_asked
from kdaemon.door.promise import SAID, read_acknowledge, weaker
from kdaemon.http.request import NO_HEADERS, HttpRequest
from kdaemon.http.turns import Later, soon
from kdaemon.wire.line_buffer import BLOCK_BYTES, LineBuffer, count_lines
from kdaemon.wire.line_form import LineForm
from kdaemon.wire.line_shapes import Parsed
from kdaemon.wire.lines import AT_ONCE_BYTES_MAX
from kdaemon.wire.lines_read import VALIDATION, Lines, joined
from kdaemon.wire.refusals import Refusal, refuse, worst_first
from kdaemon.wire.rejections import Problems, encode_answer, encode_refused_answer

JSON = b"application/json"
PATH_PREFIX = "/v1/streams/"
PATH_SUFFIX = "/records"
RETRY_AFTER = ((b"Retry-After", b"1"),)  # seconds, because shards are paced by the second

BLOCKS_A_TURN = 4
"""Blocks of one body that are read, or admitted, in one turn of the loop; then other clients have
their turn. A block of one long line ends the turn earlier. Ours, 2026-11-28: 256 KiB, some 2 ms."""

LINES_A_TURN = 2_000
"""A turn also ends after so many lines. Ours, 2026-11-28: a line that is searched for duplicate
fields takes 3.5 us, and one block has 3,000 of those at most."""


class NdjsonDoor:
    """Handles the HTTP requests that carry lines."""

    def __init__(self, door: Door, later: Later = soon) -> None:
        """`later`: schedules the turns in which the rest of a large body is read and admitted."""
        self._door = door
        self._later = later

    def handle(self, request: HttpRequest) -> None:
        """Takes one request of lines for the stream that the path names. Answers now or later."""
        spelling = unquote(request.path[len(PATH_PREFIX) : -len(PATH_SUFFIX)])
        coding = request.headers.get(b"content-encoding", b"").strip().lower()
        asked = read_acknowledge(request.headers)
        asked_form = read_asked(request.headers)
        if request.method != "POST":
            refusal = refuse("MethodNotAllowed", "Records are put with POST.", status=405)
        elif coding not in (b"", b"identity"):
            text = "Send the lines as they are, uncoded."
            refusal = refuse("UnsupportedMediaType", text, status=415)
        elif isinstance(asked, Refused):
            refusal = refuse(asked.code, asked.message)
        elif isinstance(asked_form, Refused):
            refusal = refuse(asked_form.code, asked_form.message)
        else:
            form = self._door.line_form(spelling, asked_form)
            if isinstance(form, LineForm):
                _Body(request, spelling, asked, form, self._door, self._later).read()
                return
            refusal = refuse(form.code, form.message)
        self._refuse_unread(request, spelling, refusal)

    def handle_nowhere(self, request: HttpRequest) -> None:
        """Refuses a request whose path belongs to no stream. Its body is counted as lines, because
        a path under /v1/ suggests lines.
        """
        text = "There is POST /v1/streams/{stream}/records, and the Kinesis API at POST /."
        self._refuse_unread(request, None, refuse("NotFound", text, status=404))

    def refuse_stranger(self, request: HttpRequest, refused: Refused) -> None:
        """Refuses a request whose sender is unknown, and counts its lines."""
        body = request.body
        self._door.refuse(None, refused, count_lines(body), len(body))
        _refuse(request, as_stranger(refused))

    def _refuse_unread(self, request: HttpRequest, spelling: str | None, refusal: Refusal) -> None:
        body = request.body
        self._door.refuse_unread(
            spelling, count_lines(body), len(body), principal=request.principal
        )
        _refuse(request, refusal)


class _Body:
    """One body of lines, from its bytes to its answer."""

    def __init__(
        self,
        request: HttpRequest,
        spelling: str,
        asked: Acknowledge | None,
        form: LineForm,
        door: Door,
        later: Later,
    ) -> None:
        self._request = request
        self._spelling = spelling
        self._asked = asked
        self._form = form
        self._door = door
        self._later = later
        # Where memory is reserved for blocks that are not admitted yet.
        self._reserved: ByteBudget | None = None
        self._reserved_bytes = 0  # the part of it that was not given back yet
        self._buffer = LineBuffer()
        self._steps: Steps[Parsed] | None = None  # parsing of a block that takes several turns
        self._next_line = 1
        self._problems = Problems()
        self._unread_count = 0  # lines that could not be read; counted once the body is admitted
        # Counts raw lines without a key or a stream; reported likewise.
        self._without = Parsed({}, [], 0, 0)
        self._blocks: list[tuple[str, Block]] = []  # each with its stream
        self._position = 0  # index of the next block to be admitted
        self._is_admitted = False  # every block was brought to the door
        self._open = 0  # admitted blocks that have not settled
        self._acknowledged = 0
        # By stream: why the rest of its records is not taken.
        self._refused: dict[str, Refused] = {}
        self._said: Acknowledge | None = None  # the weakest promise on which records were taken
        self._refusals: list[Refusal] = []  # why records were not taken, REFUSALS_MAX at most
        self._admissions: list[Admission] = []
        self._is_gone = False

    # Reading

    def read(self) -> None:
        """Reads the body, in this turn or over several, and admits what it holds."""
        request = self._request
        body = request.body
        if len(body) > BLOCK_BYTES:
            refused = self._reserve(body)
            if refused is not None:
                self._door.refuse(self._spelling, refused, count_lines(body), len(body))
                _refuse(request, refuse(refused.code, refused.message))
                return
        self._buffer.feed_all(body)
        request.headers = NO_HEADERS
        request.on_gone = self._withdraw
        self._is_gone = request.is_gone  # the client may have gone while its large body was hashed
        if len(body) > AT_ONCE_BYTES_MAX:  # counting its lines was this turn's work
            self._go_on_later(self._read_on)
        else:
            self._read_on()

    def _reserve(self, body: bytes) -> Refused | None:
        """Reserves the memory that the lines may need, by their number and their size alone."""
        line_count, request = body.count(b"\n"), self._request
        footprint_bytes = self._form.footprint_bytes_bound(len(body), line_count)
        footprint_bytes += FRAME_FOOTPRINT_BYTES * self._form.frames_max(len(body), line_count)
        reserved = self._door.reserve(
            self._spelling, footprint_bytes, request.client, request.principal
        )
        if isinstance(reserved, Refused):
            return reserved
        self._reserved, self._reserved_bytes = reserved, footprint_bytes
        return None

    def _read_on(self) -> None:
        byte_count, first_line = 0, self._next_line
        for _ in range(BLOCKS_A_TURN):
            steps = self._steps
            if steps is None:
                if not self._buffer.has_lines:
                    self._admit_on()
                    return
                block = self._buffer.take_block(self._form.block_lines_max)
                byte_count += len(block)
                steps = self._form.read(block, self._next_line, self._spelling, self._problems)
            try:
                next(steps)
            except StopIteration as end:
                self._steps = None
                self._take(end.value)
            else:
                self._steps = steps
                break
            if self._problems.is_hopeless:
                self._give_back(self._reserved_bytes)
                self._refuse_whole()
                return
            if (
                byte_count > BLOCKS_A_TURN * BLOCK_BYTES
                or self._next_line - first_line >= LINES_A_TURN
            ):
                break
        self._go_on_later(self._read_on)

    def _go_on_later(self, step: Callable[[], object]) -> None:
        """Runs `step` in a later turn of the loop. No other request of this connection comes
        between.
        """
        self._request.blocks_next = True
        self._later(step)

    def _take(self, parsed: Parsed) -> None:
        self._next_line += parsed.line_count
        if self._form.is_routed:
            self._blocks += [(str(name), Block(lines)) for name, lines in parsed.by_stream.items()]
        else:
            self._take_ours(parsed)
        self._without.without_key += parsed.without_key
        self._without.without_stream += parsed.without_stream

    def _take_ours(self, parsed: Parsed) -> None:
        """Keeps the lines of a block that are for the stream of the path; refuses the others."""
        ours: list[Lines] = []
        for stream, lines in parsed.by_stream.items():
            assert stream is not None, "the path names the stream of lines that name none"
            if stream == self._spelling or self._door.is_same(stream, self._spelling):
                ours.append(lines)
                continue
            text = "This request is for another stream; put the record under its own path."
            for number in lines.numbers:
                self._problems.add(number, VALIDATION, text)
        if ours:
            self._blocks.append((self._spelling, Block(joined(ours))))

    def _refuse_whole(self) -> None:
        """Refuses the whole body, because too many lines cannot be read. The rest is not parsed,
        only counted.
        """
        self._request.drop_body()
        read = sum(len(block.sizes) for _, block in self._blocks)
        total = read + self._problems.count + self._buffer.line_count
        self._blocks = []
        self._buffer.clear()
        self._door.refuse_unread(self._spelling, total, principal=self._request.principal)
        self._request.let_next()
        text = f"More than {self._problems.count - 1} lines cannot be read: nothing was taken."
        self._respond_refused(refuse(VALIDATION, text))

    # Admitting

    def _admit_on(self) -> None:
        if self._position == 0:
            self._request.drop_body()
            kept_bytes = sum(block.footprint_bytes for _, block in self._blocks)
            self._give_back(self._reserved_bytes - kept_bytes)
            self._unread_count = self._problems.count
        line_count = 0
        for stream, block in self._blocks[self._position : self._position + BLOCKS_A_TURN]:
            self._position += 1
            block.is_reserved = self._reserved is not None and stream == self._spelling
            self._give_back(block.footprint_bytes)
            self._admit(stream, block)
            line_count += len(block.lines.numbers)
            if line_count >= LINES_A_TURN:
                break
        if self._position < len(self._blocks):
            self._go_on_later(self._admit_on)
            return
        if self._unread_count:
            self._door.refuse_unread(
                self._spelling, self._unread_count, principal=self._request.principal
            )
        if self._form.is_raw:
            self._door.note_raw(self._spelling, self._without, self._request.principal)
        self._is_admitted = True
        self._request.let_next()
        self._answer_if_settled()

    def _admit(self, stream: str, block: Block) -> None:
        """Brings a block to the door. If an earlier block of the same stream was refused, this one
        is refused too, so that the records that are taken keep their order.
        """
        refused = self._refused.get(stream)
        if refused is not None:
            self._door.refuse(stream, refused, len(block.sizes), sum(block.sizes))
            self._reject(block, refused)
            return
        self._open += 1
        taken = self._door.admit(
            stream,
            block,
            self._asked,
            lambda frame: self._settled(block, frame),
            self._request.client,
            self._request.principal,
        )
        if isinstance(taken, Admission):
            self._admissions.append(taken)
            if self._is_gone:
                taken.withdraw()
            return
        assert taken is not None, "a request is told at once when there is no room"
        self._open -= 1
        self._refused[stream] = taken
        self._problems.extend(block.oversized)
        self._refusals.append(refuse(taken.code, taken.message))
        self._reject(block, taken)

    def _reject(self, block: Block, refused: Refused) -> None:
        for number in block.lines.numbers:
            self._problems.add(number, refused.code, refused.message)

    def _give_back(self, byte_count: int) -> None:
        if self._reserved is not None:
            self._reserved_bytes -= byte_count
            self._reserved.give(byte_count)

    def _withdraw(self) -> None:
        """The client has gone: withdraws what was admitted; blocks that are yet to be admitted are
        withdrawn after their admission.
        """
        self._is_gone = True
        for admission in self._admissions:
            admission.withdraw()

    # Answering

    def _settled(self, block: Block, frame: Frame) -> None:
        self._open -= 1
        self._problems.extend(block.oversized)
        acknowledged, rejected = block.settled(frame)
        self._acknowledged += acknowledged
        if acknowledged:
            self._said = weaker(self._said, frame.acknowledge)
        for each in rejected:
            self._problems.add(each.line, each.code, each.message)
            if len(self._refusals) < REFUSALS_MAX:
                self._refusals.append(refuse(each.code, each.message))
        if self._is_admitted:
            self._answer_if_settled()

    def _answer_if_settled(self) -> None:
        if self._open:
            return
        # The frames refer to this body: without the cycle no garbage collection is needed.
        self._admissions.clear()
        if self._acknowledged:
            assert self._said is not None
            status = 207 if self._problems.count else 200
            body = encode_answer(self._acknowledged, self._problems)
            self._request.respond(status, body, content_type=JSON, lines=SAID[self._said])
            return
        if self._refusals:
            self._respond_refused(worst_first(self._refusals))
        elif self._problems.count:
            first = self._problems.rejected[0]
            self._respond_refused(refuse(first.code, first.message))
        else:
            text = "There is no line in this body: expected one record a line."
            self._respond_refused(refuse(VALIDATION, text))

    def _respond_refused(self, refusal: Refusal) -> None:
        _refuse(self._request, refusal, self._problems)


# Refusals that are compared to choose the status of an answer; ours, 2026-11-28.
REFUSALS_MAX = 1_000

_STATUSES = {
    "ResourceNotFoundException": 404,
    "LimitExceededException": 429,
}


def _refuse(request: HttpRequest, refusal: Refusal, problems: Problems | None = None) -> None:
    """Answers a request of which nothing was taken. If sending the request again may help, the
    status is 503 with a Retry-After; statuses 429 and 500 stay as they are (500: the outcome of
    some records is unknown).
    """
    status = _STATUSES.get(refusal.code, refusal.status)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if not refusal.is_permanent and status not in (500, 429):
        status, headers = 503, RETRY_AFTER
    body = encode_refused_answer(refusal, problems or Problems())
    request.respond(status, body, content_type=JSON, headers=headers)
