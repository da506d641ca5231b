"""How each operation is read and answered in each encoding, for the door and the sandbox. Pure.

Only a table: for each operation its reader, its encoder and the content type of all its answers.
Where it sits: `envelope.py` -> here -> `put.py`, `put_cbor.py`, `results.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kdaemon.base.operations import OtherOperation
from kdaemon.base.record import RecordResult
from kdaemon.base.steps import Steps
from kdaemon.wire import put, put_cbor, results
from kdaemon.wire.envelope import Operation
from kdaemon.wire.limits import PutLimits, PutRequest
from kdaemon.wire.refusals import Encoding


@dataclass(frozen=True, slots=True)
class Form:
    """Everything that differs between operations and between encodings."""

    encoding: Encoding
    parse: Callable[[bytes, PutLimits], PutRequest]
    read: Callable[[bytes, PutLimits], Steps[PutRequest]]  # reads a large body in steps
    encode: Callable[[list[RecordResult], str], bytes]
    content_type: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content_type", self.encoding.value)


FORMS: Final[dict[Operation | OtherOperation, Form]] = {
    Operation.PUT_RECORDS: Form(
        Encoding.JSON, put.parse_put_records, put.read_put_records, results.encode_put_records
    ),
    Operation.PUT_RECORD: Form(
        Encoding.JSON, put.parse_put_record, put.read_put_record, results.encode_put_record
    ),
    Operation.PUT_RECORDS_CBOR: Form(
        Encoding.CBOR,
        put_cbor.parse_put_records,
        put_cbor.read_put_records,
        results.encode_put_records_cbor,
    ),
    Operation.PUT_RECORD_CBOR: Form(
        Encoding.CBOR,
        put_cbor.parse_put_record,
        put_cbor.read_put_record,
        results.encode_put_record_cbor,
    ),
}
