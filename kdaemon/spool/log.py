"""SQLite's write-ahead log: whether SQLite will read again all that was committed in it.

SQLite reads a log up to the first frame whose sums fail, and takes all frames behind that one for a
write that a power loss cut off. So one flipped bit would silently lose every commit behind it. This
file looks through the log before SQLite opens it. A single damaged byte is found by the sums and
mended; where more is damaged, `LogState` tells which frames SQLite would not read.
Knows no table. Here a frame is SQLite's: one page in the log, with a head.
Format: sqlite.org/fileformat2.html, section 4.
Invariant: all that is mended has sums that hold.
Where it sits: below `upkeep.py`.
"""

import errno
import fcntl
import os
import stat
import struct
import sys
from array import array
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from pathlib import Path
from typing import Literal

from kdaemon.spool.schema import PAGE_BYTES

_MAGIC = 0x377F0682  # words are summed as little-endian; one more: as big-endian
_VERSION = 3007000
_HEADER = struct.Struct(">8I")  # magic, version, page size, sequence, two salts, two sums
_HEADER_SUMMED_BYTES = 24
_HEAD = struct.Struct(">6I")  # page, pages after a commit or 0, two salts, two sums
_HEAD_SUMMED_BYTES = 8  # and then the page
_FRAME_BYTES = _HEAD.size + PAGE_BYTES
_MODULUS = 2**32
_MENDED_MAX = 16  # bytes in one log; where a disk damages more, no more is mended

_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")

Sums = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LogState:
    """`mended_count`: bytes that were damaged and are right again. `read`: frames up to the last
    commit that SQLite reads. `lost`: frames of commits that SQLite would not read, and all frames
    before them; empty: SQLite reads all that is there. `is_none`: the file is no log at all, and
    the log that stood there is gone.
    """

    mended_count: int
    read: tuple[int, ...]
    lost: tuple[int, ...]
    is_none: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether SQLite reads all commits of the log."""
        return not (self.lost or self.is_none)


def mend_log(path: str) -> LogState:
    """Looks through the log at `path`, and mends single bytes in place, fsynced when this returns.
    A log that is not there is whole. Takes half a millisecond a frame; a log has about 1,000 at
    most. Raises OSError.

    The last commit may be torn: the power was lost before that commit was answered. Two commits
    that hang together by their sums were synced, so a frame that fails before them is damaged, not
    torn.
    """
    try:
        fd = _opened(path, os.O_RDWR)
    except FileNotFoundError:
        return LogState(0, (), ())
    try:
        return _Log(fd).mend()
    finally:
        os.close(fd)


def is_log_whole(path: str) -> bool:
    """Whether `mend_log` would mend nothing and find nothing lost. Changes nothing. Raises
    OSError.
    """
    try:
        fd = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return _Log(fd).mend().is_whole
    except _WouldMendError:
        return False
    finally:
        os.close(fd)


def _opened(path: str, mode: int) -> int:
    """Opens without waiting: any user who may write to the directory can put a pipe there."""
    fd = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file")
    return fd


class _WouldMendError(Exception):
    """A byte would be mended in a log that was opened only for reading."""


def apply_frames(path: str, frames: tuple[int, ...], database_path: str) -> None:
    """Writes the pages of these frames from the log at `path` into a database (a copy), as a
    checkpoint would, whatever their sums are. Raises OSError.
    """
    with Path(path).open("rb") as log, Path(database_path).open("r+b") as database:
        page_count = 0
        for at in frames:
            raw = os.pread(log.fileno(), _FRAME_BYTES, _offset(at))
            page, after_commit, *_ = _HEAD.unpack_from(raw)
            page_count = after_commit or page_count
            os.pwrite(database.fileno(), raw[_HEAD.size :], (page - 1) * PAGE_BYTES)
        if page_count:
            os.ftruncate(database.fileno(), page_count * PAGE_BYTES)


class _Log:
    """An open log. Knows frames, sums and salts; no page's content."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        size = os.fstat(fd).st_size
        self._frame_count = max(0, size - _HEADER.size) // _FRAME_BYTES
        self._order: Literal["little", "big"] = "little"
        self._mended_count = 0
        self._is_certain = False  # one byte is damaged, and several could be that byte

    def mend(self) -> LogState:
        """Mends what can be mended, frame by frame, and fsyncs it. Raises OSError, and
        _WouldMendError where the log is open only for reading.
        """
        lost: list[int] = []
        committed = 0
        if self._frame_count and self._has_our_pages():
            sums = self._mend_header()
            at = 0
            while at < self._frame_count and sums is not None:
                sums = self._mend_frame(at, sums)
                at += sums is not None
                committed = at if sums and self._frame(at - 1)[0][1] else committed
            # A byte that is damaged for certain, though its place is not, was no power loss.
            commits_min = 1 if self._is_certain else 2
            lost = self._behind(at, commits_min) if at < self._frame_count else []
            lost = [*range(at), *lost] if lost else []
        if self._mended_count:
            os.fsync(self._fd)
        is_none = not (committed or lost) and self._is_none()
        return LogState(self._mended_count, tuple(range(committed)), tuple(lost), is_none)

    def _is_none(self) -> bool:
        """Whether bytes stand here that SQLite never wrote. Where the power is lost, SQLite leaves
        its writes whole or as zeros, and it begins each log with the same bytes.
        """
        begin = os.pread(self._fd, _HEADER.size, 0)
        magic = int.from_bytes(begin[:4])
        return self._frame_count > 0 and any(begin) and magic not in (_MAGIC, _MAGIC + 1)

    def _has_our_pages(self) -> bool:
        """Whether the pages have our size. Of pages of another size nothing can be said here; a
        damaged header does not tell the size, and counts as ours.
        """
        return not self._is_whole_header() or self._header()[2] == PAGE_BYTES

    def _behind(self, broken: int, commits_min: int) -> list[int]:
        """Frames from the broken one on that hang together over at least `commits_min` commits."""
        salts = self._salts()
        found: list[int] = []
        stretch: list[int] = []
        for at in range(broken, self._frame_count):
            head, words = self._frame(at)
            if head[2:4] != salts or not 0 < head[0] < _MODULUS // 2:
                self._take(stretch, commits_min, found)
                stretch = []
                continue
            before = self._frame(at - 1)[0][4:] if stretch else None
            if before is not None and sums_of(words, before) != head[4:]:
                self._take(stretch, commits_min, found)
                stretch = []
            stretch.append(at)
        self._take(stretch, commits_min, found)
        return found

    def _take(self, stretch: list[int], commits_min: int, found: list[int]) -> None:
        commits = [at for at in stretch if self._frame(at)[0][1]]
        if len(commits) >= commits_min:
            found += [at for at in stretch if at <= commits[-1]]

    # The header

    def _mend_header(self) -> Sums | None:
        """Mends the header. Returns the sums that the first frame goes on from; None: the header is
        damaged beyond mending.
        """
        for order in _ORDERS:
            self._order = order
            if self._is_whole_header():
                return self._header_sums()
        for order in _ORDERS:
            self._order = order
            raw = os.pread(self._fd, _HEADER.size, 0)
            stored = _HEADER.unpack(raw)[6:]
            words = self._words(raw[:_HEADER_SUMMED_BYTES])
            found = sums_of(words, (0, 0))
            mended = [
                raw[: at * 4] + word.to_bytes(4, order) + raw[at * 4 + 4 :]
                for at, word in _candidates(words, found, stored)
            ]
            if _is_one_byte(found[0] ^ stored[0], found[1] ^ stored[1]):
                mended.append(raw[:_HEADER_SUMMED_BYTES] + struct.pack(">2I", *found))
            mended = [each for each in mended if self._is_of_frames(each)]
            if len(mended) == 1:
                self._write(0, mended[0])
                return self._header_sums()
        return None

    def _header_sums(self) -> Sums:
        *_, sum0, sum1 = self._header()
        return sum0, sum1

    def _is_of_frames(self, raw: bytes) -> bool:
        """Whether a header has the values that it must have, and the salts of the first frame."""
        magic, version, page_bytes, _, *salts, _, _ = _HEADER.unpack(raw)
        said = (magic, version, page_bytes, tuple(salts))
        expected = (_MAGIC + (self._order == "big"), _VERSION, PAGE_BYTES, self._frame(0)[0][2:4])
        return said == expected

    def _header(self) -> tuple[int, ...]:
        return _HEADER.unpack(os.pread(self._fd, _HEADER.size, 0))

    def _is_whole_header(self) -> bool:
        magic, *_, sum0, sum1 = self._header()
        words = self._words(os.pread(self._fd, _HEADER_SUMMED_BYTES, 0))
        return magic == _MAGIC + (self._order == "big") and sums_of(words, (0, 0)) == (sum0, sum1)

    def _salts(self) -> tuple[int, ...]:
        """The salts of this log's frames; those of the first frame where the header cannot be
        believed.
        """
        return self._header()[4:6] if self._is_whole_header() else self._frame(0)[0][2:4]

    # Frames

    def _frame(self, at: int) -> "tuple[tuple[int, ...], array[int]]":
        """The head of a frame, and its words that are summed."""
        raw = os.pread(self._fd, _FRAME_BYTES, _offset(at))
        return _HEAD.unpack_from(raw), self._words(raw[:_HEAD_SUMMED_BYTES] + raw[_HEAD.size :])

    def _mend_frame(self, at: int, before: Sums) -> Sums | None:
        """Mends a frame. Returns the sums that the next frame goes on from; None: the frame fails,
        or is of an older log.
        """
        head, words = self._frame(at)
        salts, stored = self._header()[4:6], (head[4], head[5])
        offset = _offset(at)
        found = sums_of(words, before)
        if found == stored:
            if head[2:4] != salts:  # only frames of this log go on from the last
                self._write(offset + _HEAD_SUMMED_BYTES, struct.pack(">2I", *salts))
            return stored
        if head[2:4] != salts or self._mended_count >= _MENDED_MAX:
            return None
        candidates = _candidates(words, found, stored)
        if _is_one_byte(found[0] ^ stored[0], found[1] ^ stored[1]) and (
            self._goes_on(at + 1, found) or not (candidates or self._goes_on(at + 1, stored))
        ):
            self._write(offset + _HEAD_SUMMED_BYTES + 8, struct.pack(">2I", *found))
            return found
        if len(candidates) != 1:
            self._is_certain = bool(candidates)
            return None
        ((word, mended),) = candidates
        gap = _HEAD.size - _HEAD_SUMMED_BYTES  # salts and sums, which are not summed
        byte_offset = offset + word * 4 + (0 if word * 4 < _HEAD_SUMMED_BYTES else gap)
        self._write(byte_offset, mended.to_bytes(4, self._order))
        return stored

    def _goes_on(self, at: int, before: Sums) -> bool:
        """Whether a frame stands at `at` that goes on from these sums."""
        if at >= self._frame_count:
            return False
        head, words = self._frame(at)
        return sums_of(words, before) == head[4:]

    def _write(self, offset: int, data: bytes) -> None:
        if fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise _WouldMendError
        os.pwrite(self._fd, data, offset)
        self._mended_count += 1

    def _words(self, data: bytes) -> "array[int]":
        words = array("I", data)
        if self._order != sys.byteorder:
            words.byteswap()
        return words


def _candidates(words: "array[int]", found: Sums, stored: tuple[int, ...]) -> list[tuple[int, int]]:
    """(index, word) of every change of one byte that would turn the sums found into those stored. A
    change in the high bytes of a word has several candidates: Fibonacci's numbers repeat soon
    modulo small powers of two.
    """
    error = ((stored[0] - found[0]) % _MODULUS, (stored[1] - found[1]) % _MODULUS)
    candidates = []
    for at, weights in enumerate(zip(*_weights(len(words)), strict=True)):
        odd = 0 if weights[0] & 1 else 1  # one of two neighbours is odd: it has an inverse
        delta = error[odd] * pow(weights[odd], -1, _MODULUS) % _MODULUS
        mended = (words[at] + delta) % _MODULUS
        is_right = delta * weights[1 - odd] % _MODULUS == error[1 - odd]
        if is_right and _is_one_byte(mended ^ words[at]):
            candidates.append((at, mended))
    return candidates


def _offset(at: int) -> int:
    return _HEADER.size + at * _FRAME_BYTES


def _is_one_byte(*differences: int) -> bool:
    """Whether all these differences together lie in one byte."""
    changed = [each >> shift & 0xFF for each in differences for shift in (0, 8, 16, 24)]
    return sum(map(bool, changed)) == 1


def sums_of(words: "array[int]", before: tuple[int, ...]) -> Sums:
    """SQLite's two sums over words, which go on from the sums `before`. SQLite computes s0 += word
    + s1; s1 += next word + s0; and so on. So Fibonacci's numbers are how often each word counts in
    the end, and sums of products are much faster here than a loop.
    """
    count = len(words)
    first, second = _weights(count)
    f = _fibonacci(count + 2)
    sum0 = sum(map(mul, words, first)) + f[count - 1] * before[0] + f[count] * before[1]
    sum1 = sum(map(mul, words, second)) + f[count] * before[0] + f[count + 1] * before[1]
    return sum0 % _MODULUS, sum1 % _MODULUS


@lru_cache(maxsize=4)  # of the header and of a frame
def _weights(count: int) -> tuple[list[int], list[int]]:
    """How often each word counts in the first sum, and in the second."""
    f = _fibonacci(count + 1)
    return f[count - 1 :: -1], f[count:0:-1]


@lru_cache(maxsize=8)
def _fibonacci(count: int) -> list[int]:
    numbers = [0, 1]
    while len(numbers) < count:
        numbers.append((numbers[-1] + numbers[-2]) % _MODULUS)
    return numbers
