"""Reads what a spool holds and writes it as JSON lines. Prints nothing.

Sits between `spool/view.py` and the commands. Invariant: a record is written if, and only if, it is
stored, whole, and not known to be settled.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from kdaemon.base.names import parse_qualified
from kdaemon.base.record import Record
from kdaemon.cli.values_text import JsonFields, data_fields, time_text
from kdaemon.spool.codec import settled_indices
from kdaemon.spool.letters import DeadLetter
from kdaemon.spool.values import StoredFrame, StoredTotals
from kdaemon.spool.view import StoreView

READ_BYTES_MAX = 4 * 1024 * 1024  # bytes of payload that an export holds in memory; ours


@dataclass(slots=True)
class Exported:
    """Counts: records written, records left out because they are settled, frames left out as
    damaged.
    """

    record_count: int = 0
    settled_count: int = 0
    corrupt_count: int = 0


def export_records(
    view: StoreView,
    stored_totals: list[StoredTotals],
    out: BinaryIO,
    on_progress: Callable[[int, int | None], object],
) -> Exported:
    """Writes every record of these stored_totals, by stream, in the order of acceptance. Records
    that were stored after the stored_totals were looked up are left out. Raises SpoolError,
    OSError.
    """
    exported = Exported()
    total = sum(totals.record_count for totals in stored_totals)
    for totals in stored_totals:
        for frame in _frames(view, totals, exported):
            records = _unsettled(frame)
            out.writelines(record_line(record, totals.stream) for record in records)
            exported.record_count += len(records)
            exported.settled_count += len(frame.records) - len(records)
            on_progress(exported.record_count + exported.settled_count, total)
    return exported


def _frames(view: StoreView, totals: StoredTotals, exported: Exported) -> Iterator[StoredFrame]:
    after_id = totals.first_id - 1
    while after_id < totals.last_id:
        read = view.read(totals.stream, after_id, READ_BYTES_MAX)
        exported.corrupt_count += read.corrupt_count
        for frame in read.frames:
            if frame.id <= totals.last_id:
                yield frame
        if read.is_end:
            return
        after_id = read.last_id


def _unsettled(frame: StoredFrame) -> list[Record]:
    if frame.settled is None:
        return frame.records
    settled = set(settled_indices(frame.settled, len(frame.records)))
    return [record for index, record in enumerate(frame.records) if index not in settled]


def record_line(record: Record | DeadLetter, stream: str | None = None) -> bytes:
    """The line of a record that the daemon and `kdaemon put` take. An empty key is left out."""
    fields: JsonFields = {} if stream is None else {"stream": stream}
    if record.partition_key:
        fields["partition_key"] = record.partition_key
    if record.explicit_hash_key is not None:
        fields["explicit_hash_key"] = record.explicit_hash_key
    return msgspec.json.encode({**fields, **data_fields(record.data)}) + b"\n"


def letter_fields(letter: DeadLetter, *, has_data: bool) -> JsonFields:
    """A dead letter for programs. Without data it has the data's size. A damaged letter also has
    `is_intact`, false.
    """
    fields: JsonFields = {
        "id": letter.id,
        "stream": letter.stream,
        "upstream": parse_qualified(letter.stream).upstream,
        "partition_key": letter.partition_key,
        "explicit_hash_key": letter.explicit_hash_key,
        "reason": letter.reason,
        "code": letter.code,
        "message": letter.message,
        "attempts": letter.attempts,
        "first": time_text(letter.first_ms),
        "last": time_text(letter.last_ms),
        "data_bytes": len(letter.data),
    }
    if not letter.is_intact:
        fields["is_intact"] = False
    return {**fields, **data_fields(letter.data)} if has_data else fields
