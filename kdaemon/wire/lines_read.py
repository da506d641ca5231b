"""Lines that were read, as the records of their streams. Pure.

The step between reading a block of lines and admitting it: which records belong to one stream, in
which order, and which of them a stream's limits refuse. Knows no JSON.
Invariant: a record stays with the number of its line.
Where it sits: `lines.py` makes them, the door's blocks carry them.
"""

import msgspec

from kdaemon.base.record import Record
from kdaemon.wire.limits import PutLimits
from kdaemon.wire.rejections import Rejected

VALIDATION = "ValidationException"  # the code for a line that can be read and breaks a limit


class Lines(msgspec.Struct):
    """Records of one stream, in the order of their lines.

    `sizes[i]`: data + partition key of record i, in UTF-8 bytes; `numbers[i]`: its line, from 1.
    """

    records: list[Record]
    sizes: list[int]
    numbers: list[int]


def in_runs(by_stream: dict[str | None, Lines]) -> list[tuple[str | None, Lines]]:
    """The same lines in their order, in runs of neighbours that name one stream."""
    parts = [
        (number, stream, record, size)
        for stream, lines in by_stream.items()
        for number, record, size in zip(lines.numbers, lines.records, lines.sizes, strict=True)
    ]
    parts.sort(key=lambda part: part[0])
    runs: list[tuple[str | None, Lines]] = []
    for number, stream, record, size in parts:
        if not runs or runs[-1][0] != stream:
            runs.append((stream, Lines([], [], [])))
        lines = runs[-1][1]
        lines.records.append(record)
        lines.sizes.append(size)
        lines.numbers.append(number)
    return runs


def joined(parts: list[Lines]) -> Lines:
    """The lines of one stream, under all of its names, in their order."""
    if len(parts) == 1:
        return parts[0]
    rows = [
        row for part in parts for row in zip(part.numbers, part.records, part.sizes, strict=True)
    ]
    rows.sort(key=lambda row: row[0])
    numbers, records, sizes = map(list, zip(*rows, strict=True))
    return Lines(records, sizes, numbers)


def refuse_oversized(lines: Lines, limits: PutLimits) -> list[Rejected]:
    """Takes the records over a stream's limits out of `lines`, and says why for each."""
    size_max, key_max = limits.record_bytes_max, limits.partition_key_bytes_max
    sizes = lines.sizes
    if (not sizes or max(sizes) <= size_max) and key_max is None:
        return []
    rejected = []
    kept = Lines([], [], [])
    for record, size, number in zip(lines.records, sizes, lines.numbers, strict=True):
        key_bytes = size - len(record.data)
        if size > size_max:
            text = f"A record may have {size_max} bytes with its partition key; this has {size}."
            rejected.append(Rejected(number, VALIDATION, text))
        elif key_max is not None and key_bytes > key_max:
            text = f"A partition key may have {key_max} bytes in UTF-8; this has {key_bytes}."
            rejected.append(Rejected(number, VALIDATION, text))
        else:
            kept.records.append(record)
            kept.sizes.append(size)
            kept.numbers.append(number)
    if rejected:
        lines.records, lines.sizes, lines.numbers = kept.records, kept.sizes, kept.numbers
    return rejected
