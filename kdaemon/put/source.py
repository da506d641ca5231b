"""Reads a file, a pipe or a terminal without holding up the loop, for `kdaemon put`.

Knows descriptors and gzip; knows nothing of lines or records. The loop waits for a pipe, so that
answers are read meanwhile. There is no thread, so that Ctrl-C ends it at once. Invariant: at most
READ_BYTES of the file and INFLATED_BYTES_MAX of its inflated data are held at one time.
"""

import asyncio
import os
import stat
import zlib
from collections.abc import AsyncIterator, Iterator

READ_BYTES = 256 * 1024  # of the file, in one read
INFLATED_BYTES_MAX = 1024 * 1024  # of gzip data, in one step


class SourceError(Exception):
    """The file cannot be read (to its end). The text names the file and says why."""


class Source:
    """One open descriptor, which stays the caller's. `read_bytes`: what was read, as stored."""

    def __init__(self, descriptor: int, name: str, *, is_gzip: bool) -> None:
        self._descriptor = descriptor
        self._name = name
        self._is_gzip = is_gzip
        self._inflater = zlib.decompressobj(wbits=31)
        self._is_inside = False  # a gzip member has begun and not ended
        self.read_bytes = 0
        status = os.fstat(descriptor)
        is_file = stat.S_ISREG(status.st_mode)
        self.size_bytes = status.st_size if is_file else None  # None: not known

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, inflated, up to the end. Raises SourceError."""
        while stored := await self._read():
            self.read_bytes += len(stored)
            if not self._is_gzip:
                yield stored
                continue
            for piece in self._inflate(stored):
                yield piece
        if self._is_inside:
            raise SourceError(f"{self._name} ends in the middle of its gzip data")

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        is_readable = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, is_readable.set)
        except PermissionError:  # epoll takes no regular file and no /dev/null, which never wait
            await asyncio.sleep(0)
        else:
            try:
                await is_readable.wait()
            finally:
                loop.remove_reader(self._descriptor)
        try:
            return os.read(self._descriptor, READ_BYTES)
        except OSError as error:
            raise SourceError(f"cannot read {self._name}: {error.strerror}") from error

    def _inflate(self, stored: bytes) -> Iterator[bytes]:
        """Inflates. Several gzip members in a row are one file, as for gunzip."""
        try:
            while stored:
                if self._inflater.eof:
                    stored = stored.lstrip(b"\0")  # padding, which tapes and gunzip know
                    if not stored:
                        return
                    self._inflater = zlib.decompressobj(wbits=31)
                yield self._inflater.decompress(stored, INFLATED_BYTES_MAX)
                self._is_inside = not self._inflater.eof
                stored = self._inflater.unconsumed_tail or self._inflater.unused_data
        except zlib.error as error:
            raise SourceError(f"{self._name} is no gzip file, or a damaged one") from error
