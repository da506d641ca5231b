"""The library `h2` as this daemon uses it: states, windows and header compression of HTTP/2.

About: which of the library's defaults are changed, and why, so that http2.py reads as if the
library had been made for it. Must not know a socket, a request, or a bound of a listener, except
those that are announced. Imported when the first client speaks HTTP/2: the library takes 2 MiB and
50 ms.
Invariants: we judge headers, not the library, which would end a connection for one wrong request.
Tables and lists that a client could make grow are bounded.
Where it sits: http2.py owns one for each connection.
"""

from collections.abc import Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event
from h2.exceptions import FrameDataMissingError, ProtocolError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes
from hpack.hpack import Encoder, encode_integer
from hpack.table import HeaderTable
from hyperframe.exceptions import InvalidDataError, InvalidFrameError
from hyperframe.frame import Frame

from kdaemon.http.http2_block import BlockDecoder, Field
from kdaemon.http.http2_frames import FRAME_BYTES_MAX, HEAD_BYTES, PREFACE

# How much a client may send of bodies before it is told that more may come. Ours, 2026-11-28: most
# requests pass without a WINDOW_UPDATE. When more would come, the socket is not read, and nothing
# is kept here that is not charged.
WINDOW_BYTES = 1024 * 1024
# Bytes of compressed headers, in either direction: the default (RFC 9113, 6.5.2).
TABLE_BYTES = 4096

# A list of headers that is larger than announced is refused on its stream, up to this many times
# the announced size. A larger list ends the connection, because its compression table is lost.
# Ours, 2026-11-28.
LIST_TIMES_MAX = 2

# Ended streams that are remembered, for frames that were on their way. Ours, 2026-11-28: the
# library remembers 65,536, which is 6 MiB a connection.
ENDED_STREAMS_MAX = 256


class _Buffer(FrameBuffer):
    """Gives whole frames, one at a time, without copying them: the library's own buffer copies each
    frame twice. It also formats each frame, with its body, for a log that is not kept: a quarter of
    what a request of 500 records costs (2026-11-28).
    """

    def __init__(self) -> None:
        super().__init__(server=True)
        self._whole = b""

    def add_data(self, data: Any) -> None:
        if self._preamble_len:
            super().add_data(data)
        else:
            self._whole = bytes(data)  # no copy: `data` is bytes already

    def __next__(self) -> Frame:
        data, self._whole = memoryview(self._whole), b""
        if not data:
            raise StopIteration
        try:
            frame, size = Frame.parse_frame_header(data[:HEAD_BYTES])
            self._validate_frame_length(size)
            frame.parse_body(data[HEAD_BYTES:])
        except InvalidDataError as error:
            raise ProtocolError(f"a frame that is none: {error}") from None
        except InvalidFrameError as error:
            raise FrameDataMissingError(f"a frame without its data: {error}") from None
        frame._body_repr = str  # type: ignore[method-assign]  # noqa: SLF001 - says nothing
        whole = self._update_header_buffer(frame)
        if whole is None:
            raise StopIteration
        return whole


class _Encoder(Encoder):
    """Uses no table but the static one: each answer's headers are its own, so that searching and
    filling a table would be useless. Compresses no text, which would cost 15 us an answer.
    """

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:  # noqa: ARG002
        """A block of headers (RFC 7541)."""
        block: list[Any] = [
            super().encode((), huffman=False)
        ]  # tells if the client's table became smaller
        for name, value in headers:
            size = len(value)
            if name == b":status" and value in _STATUSES:
                block.append(_STATUSES[value])
            elif size < _LENGTH_IN_A_BYTE:
                block += (_names.get(name) or _encode_name(name), _LENGTHS[size], value)
            else:
                block += (_names.get(name) or _encode_name(name), encode_integer(size, 7), value)
        return b"".join(block)

    @property
    def header_table_size(self) -> int:
        return super().header_table_size

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        Encoder.header_table_size.fset(self, min(value, TABLE_BYTES))  # type: ignore[attr-defined]


# Whole fields of the static table (RFC 7541, 6.1 and appendix A).
_STATUSES = {
    value: bytes((0x88 + index,))
    for index, value in enumerate((b"200", b"204", b"206", b"304", b"400", b"404", b"500"))
}
_LENGTH_IN_A_BYTE = 127  # RFC 7541, 5.1, with a prefix of 7 bits
_LENGTHS = [bytes((size,)) for size in range(_LENGTH_IN_A_BYTE)]
_names: dict[bytes, bytes] = {}  # names of answers' headers: they come from code, and are few


def _encode_name(name: bytes) -> bytes:
    """The name of a header that goes into no table (RFC 7541, 6.2.2): as text, or as its place in
    the static table.
    """
    found = HeaderTable().search(name, b"\0")
    if found is None:
        encoded = b"\0" + bytes(encode_integer(len(name), 7)) + name
    else:
        encoded = bytes(encode_integer(found[0], 4))
    _names[name] = encoded
    return encoded


class Http2Core(H2Connection):
    """The server's side of one connection."""

    MAX_CLOSED_STREAMS = ENDED_STREAMS_MAX

    def __init__(self, streams_max: int, list_bytes_max: int) -> None:
        config = H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_outbound_headers=False,  # they come from our code
            normalize_outbound_headers=False,
            validate_inbound_headers=False,  # http2_head.py validates them
            normalize_inbound_headers=False,
        )
        super().__init__(config)
        self._headers = self.decoder = BlockDecoder(LIST_TIMES_MAX * list_bytes_max)
        self.encoder = _Encoder()
        self.incoming_buffer = _Buffer()
        announced = self.local_settings
        announced[SettingCodes.MAX_CONCURRENT_STREAMS] = streams_max
        announced[SettingCodes.MAX_HEADER_LIST_SIZE] = list_bytes_max
        announced[SettingCodes.INITIAL_WINDOW_SIZE] = WINDOW_BYTES
        announced[SettingCodes.MAX_FRAME_SIZE] = FRAME_BYTES_MAX
        announced.acknowledge()
        self.initiate_connection()
        self.increment_flow_control_window(WINDOW_BYTES - 65_535)
        self.receive_data(PREFACE)  # the preface was read before this object was made

    @property
    def open_inbound_streams(self) -> int:
        """Always 0 for the library, which ends a connection with too many streams. A client may
        have sent one stream too many before it read our SETTINGS: http2.py refuses that stream
        alone.
        """
        super().open_inbound_streams  # noqa: B018 - forgets those that have ended
        return 0

    def take(self, frame: bytes) -> list[Event]:
        """Takes one whole frame. ProtocolError: the library's GOAWAY is in `data_to_send`."""
        return self.receive_data(frame)

    def take_headers(self) -> list[Field]:
        """The headers of the block that was read last."""
        decoded, self._headers.decoded = self._headers.decoded, []
        return decoded

    def room_for(self, stream_id: int) -> int:
        """Bytes of a body that may be sent now in one frame."""
        return min(self.local_flow_control_window(stream_id), self.max_outbound_frame_size)

    def close(self) -> None:
        """Breaks the library's reference cycles, so that no garbage collection is needed. The
        object must not be used after that.
        """
        vars(self).clear()
