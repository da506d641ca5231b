"""PutRecord and PutRecords as they are decoded, from any encoding. Pure.

What a decoder fills. Knows no encoding, and not what becomes of it.
Invariant: a member that is there has the type that the API gives it, in every encoding.
Where it sits: `put.py` (JSON) and `put_cbor.py` fill these; `measured.py` makes requests of them.
"""

from typing import Annotated

import msgspec

from kdaemon.base.limits import RECORDS_PER_CALL_MAX
from kdaemon.base.record import PartitionKey, Record


class Head(msgspec.Struct):
    """The members of PutRecords beside `Records`."""

    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None  # reserved by the service, ignored
    DryRun: bool | None = None


class PutRecords(Head, kw_only=True):
    Records: Annotated[list[Record], msgspec.Meta(min_length=1, max_length=RECORDS_PER_CALL_MAX)]


class PutRecord(msgspec.Struct):
    Data: bytes
    PartitionKey: PartitionKey
    ExplicitHashKey: str | None = None
    StreamName: str | None = None
    StreamARN: str | None = None
    StreamId: str | None = None
    DryRun: bool | None = None
    SequenceNumberForOrdering: str | None = None


# The same, but keys may be missing. Two forms, so that an ordinary request is decoded straight into
# the records that are queued.


_MaybeKey = PartitionKey | None


class _OpenEntry(msgspec.Struct, gc=False):
    Data: bytes
    PartitionKey: _MaybeKey = None
    ExplicitHashKey: str | None = None


class OpenPutRecords(Head, kw_only=True):
    Records: Annotated[
        list[_OpenEntry], msgspec.Meta(min_length=1, max_length=RECORDS_PER_CALL_MAX)
    ]


class OpenPutRecord(PutRecord):
    PartitionKey: _MaybeKey = None  # type: ignore[assignment]
