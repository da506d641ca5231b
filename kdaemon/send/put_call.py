"""PutRecords as JSON: the request that a body is made of, and its answer read.

Knows the members of both. Must not know how a call is made, or what becomes of a record. Invariant:
an answer that cannot be read is never a success, and no error holds the answer.
Where it sits: `client.py` makes the requests and reads the answers.
"""

from typing import Any, Final

import msgspec

from kdaemon.base.limits import KIB
from kdaemon.base.record import Record, RecordResult
from kdaemon.send import answers
from kdaemon.send.arriving import Headers

LARGE_BYTES: Final = 256  # ours: of one result; a delivered record's takes some 115
_ENCRYPTIONS: Final = ("NONE", "KMS", None)  # known values, which need no check


class PutRequest(
    msgspec.Struct,
    gc=False,
    omit_defaults=True,
    kw_only=True,
    rename={"name": "StreamName", "arn": "StreamARN", "records": "Records", "is_dry": "DryRun"},
):
    """The stream is named by `name` or by `arn`."""

    name: str | None = None
    arn: str | None = None
    records: list[Record]
    is_dry: bool = False


class PutAnswer(
    msgspec.Struct, gc=False, rename={"records": "Records", "encryption_type": "EncryptionType"}
):
    """A result for each record sent, in order (a service outside its contract gives another
    number), and how the stream is encrypted: NONE, KMS, None if the service did not say.
    """

    records: list[RecordResult]
    encryption_type: Any = None


_decode: Final = msgspec.json.Decoder(PutAnswer).decode


def stream_of(request: object) -> str:
    """The stream in whose room the body is counted. Only PutRecords has one: all other calls are
    small, and wait for no room.
    """
    return (request.arn or request.name or "") if isinstance(request, PutRequest) else ""


def read_answer(body: bytes, headers: Headers, sent_count: int) -> PutAnswer:
    """The results as the service gave them. `sent_count`: records of the request. Raises
    `ServiceError`.
    """
    try:
        # Before the answer is decoded; only if it is larger than any answer should be.
        if len(body) > LARGE_BYTES * sent_count + 4 * KIB and (
            body.count(b"{") > 8 * sent_count + 64
        ):
            raise answers.unreadable_answer("far more objects than records were sent")
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # raised below, so that no context carries the answer along
    else:
        answers.clean_results(answer.records)
        if answer.encryption_type not in _ENCRYPTIONS:
            answer.encryption_type = answers.word(answer.encryption_type)
        return answer
    raise answers.no_answer("PutRecords", body, headers)
