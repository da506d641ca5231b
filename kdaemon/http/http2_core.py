"""The library `h2` as this daemon drives it: states, windows and header compression of HTTP/2.

About: what of the library is set otherwise than it comes, and why, so that http2.py reads as if the
library had been made for it. Knows no socket, no request and no bound of a listener but those that
are announced. Imported when the first client speaks HTTP/2: the library takes 2 MiB and 50 ms.
Invariants: headers are judged by us and not by the library, which ends a connection where one
request is wrong; tables and lists that a client could make grow are bounded.
Where it sits: http2.py owns one for each connection.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes
from hpack.exceptions import HPACKDecodingError
from hpack.hpack import Decoder, Encoder, encode_integer
from hpack.struct import HeaderTuple
from hpack.table import HeaderTable
from hyperframe.frame import Frame

from kdaemon.http.http2_frames import FRAME_BYTES_MAX, PREFACE

# What a client may send of bodies before it hears that more may come. Ours, 2026-11-28: most
# requests pass without a WINDOW_UPDATE; beyond it the socket is not read, and nothing is kept here
# that is not charged.
WINDOW_BYTES = 1024 * 1024
TABLE_BYTES = 4096  # of compressed headers, either way: the default (RFC 9113, 6.5.2)

# A list of headers that is larger than announced is answered on its stream up to this many times
# the announced size; beyond that the connection ends, because its table is lost. Ours, 2026-11-28.
LIST_TIMES_MAX = 2

# Streams that ended and are remembered, for frames that were on their way. Ours, 2026-11-28: the
# library remembers 65,536, which is 6 MiB a connection.
ENDED_STREAMS_MAX = 256

# Changes of the table's size at the start of a block: two are allowed (RFC 7541, 4.2), and each one
# costs a microsecond of a block that may have 32,000.
_SIZE_CHANGES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")


class _Decoder(Decoder):
    """Keeps the headers for us, and shows the library none."""

    def __init__(self, list_bytes_max: int) -> None:
        super().__init__(list_bytes_max)
        self.decoded: Collection[tuple[bytes, bytes]] = ()

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:  # noqa: ARG002
        if _SIZE_CHANGES.match(data):
            raise HPACKDecodingError("the size of the table changes again and again")
        self.decoded = tuple(super().decode(data, raw=True))
        return ()


class _Buffer(FrameBuffer):
    """The library writes each frame down, body and all, for a log that is not kept: a quarter of
    what a request of 500 records costs (2026-11-28).
    """

    def __next__(self) -> Frame:
        frame = super().__next__()
        frame._body_repr = str  # type: ignore[method-assign]  # noqa: SLF001 - says nothing
        return frame


class _Encoder(Encoder):
    """Leans on no table but the static one: what an answer says is its own, so that a table would
    be searched and filled for nothing. Compresses no text: that costs 15 us an answer.
    """

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:  # noqa: ARG002
        block: list[Any] = [
            super().encode((), huffman=False)
        ]  # that the client's table became smaller
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


# Of the static table, whole (RFC 7541, 6.1 and appendix A).
_STATUSES = {
    value: bytes((0x88 + index,))
    for index, value in enumerate((b"200", b"204", b"206", b"304", b"400", b"404", b"500"))
}
_LENGTH_IN_A_BYTE = 127  # RFC 7541, 5.1, with a prefix of 7 bits
_LENGTHS = [bytes((size,)) for size in range(_LENGTH_IN_A_BYTE)]
_names: dict[bytes, bytes] = {}  # of headers of answers: they come from code, and are few


def _encode_name(name: bytes) -> bytes:
    """Of a header that goes into no table (RFC 7541, 6.2.2): its name, or where that stands."""
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
            validate_outbound_headers=False,  # they come from code
            normalize_outbound_headers=False,
            validate_inbound_headers=False,  # http2_head.py does
            normalize_inbound_headers=False,
        )
        super().__init__(config)
        self._headers = self.decoder = _Decoder(LIST_TIMES_MAX * list_bytes_max)
        self.encoder = _Encoder()
        self.incoming_buffer = _Buffer(server=True)
        announced = self.local_settings
        announced[SettingCodes.MAX_CONCURRENT_STREAMS] = streams_max
        announced[SettingCodes.MAX_HEADER_LIST_SIZE] = list_bytes_max
        announced[SettingCodes.INITIAL_WINDOW_SIZE] = WINDOW_BYTES
        announced[SettingCodes.MAX_FRAME_SIZE] = FRAME_BYTES_MAX
        announced.acknowledge()
        self.initiate_connection()
        self.increment_flow_control_window(WINDOW_BYTES - 65_535)
        self.receive_data(PREFACE)  # which was read before this was made

    @property
    def open_inbound_streams(self) -> int:
        """None, for the library, which ends the connection where there are too many. One stream too
        many may have left before its client read our SETTINGS: http2.py refuses it alone.
        """
        super().open_inbound_streams  # noqa: B018 - forgets those that have ended
        return 0

    def take(self, frame: bytes) -> list[Event]:
        """One whole frame. ProtocolError: its GOAWAY is in `data_to_send`."""
        return self.receive_data(frame)

    def take_headers(self) -> Collection[tuple[bytes, bytes]]:
        """Of the block of headers that was read last."""
        decoded, self._headers.decoded = self._headers.decoded, ()
        return decoded

    def room_for(self, stream_id: int) -> int:
        """Bytes of a body that may leave now in one frame."""
        return min(self.local_flow_control_window(stream_id), self.max_outbound_frame_size)

    def close(self) -> None:
        """Breaks the library's cycles, so that no collector is needed. It is of no use after."""
        vars(self).clear()
