"""The shapes of lines as they are read, and the result of reading a block. Pure.

In a file of its own, because msgspec makes these classes, and mypyc compiles lines.py.
Where it sits: `lines.py` and `raw_lines.py` fill these.
"""

from typing import Annotated, Literal

import msgspec

from kdaemon.base.frame import Acknowledge
from kdaemon.base.limits import PARTITION_KEY_CHARACTERS_MAX
from kdaemon.base.names import ARN_CHARACTERS_MAX
from kdaemon.wire.lines_read import Lines
from kdaemon.wire.rejections import Rejected


class Parsed(msgspec.Struct):
    """`by_stream`: None has the lines that name no stream. `line_count`: with blank lines.
    `rejected_count`: of refused lines; `rejected`: those of them that are told. `without_key`,
    `without_stream`: raw lines whose field for that gave none.
    """

    by_stream: dict[str | None, Lines]
    rejected: list[Rejected]
    rejected_count: int
    line_count: int
    without_key: int = 0
    without_stream: int = 0


class Setup(msgspec.Struct, forbid_unknown_fields=True):
    """What a first line may set. None: as the stream's settings say."""

    stream: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    acknowledge: Acknowledge | None = None
    lines: Literal["envelope", "raw"] | None = None
    partition_key_field: str | None = None
    stream_field: str | None = None


class Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One line; it is a record if it has data."""

    data: str | None = None
    data_base64: bytes | None = None
    partition_key: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=PARTITION_KEY_CHARACTERS_MAX)] | None
    ) = None
    explicit_hash_key: str | None = None
    stream: Annotated[str, msgspec.Meta(min_length=1, max_length=ARN_CHARACTERS_MAX)] | None = None


class Glance(msgspec.Struct):
    """Only whether a line has data."""

    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
