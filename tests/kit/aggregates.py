"""KPL's aggregated records as others read and write them: aws-kinesis-agg for Python and for node.

A record is a triple here: partition key, explicit hash key or None, data.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from kdaemon.base.record import Record
from tests.kit.endpoints import NODE
from tests.kit.patience import PATIENCE_S

_path = list(sys.path)
from aws_kinesis_agg.aggregator import AggRecord  # type: ignore[import-untyped]  # noqa: E402
from aws_kinesis_agg.deaggregator import (  # type: ignore[import-untyped]  # noqa: E402
    deaggregate_records,
)

sys.path[:] = _path  # it puts itself in front, with modules named `aggregator` and `messages_pb2`

Triple = tuple[str, str | None, bytes]


def triples(records: Sequence[Record]) -> list[Triple]:
    return [(each.partition_key, each.explicit_hash_key, each.data) for each in records]


def python_reads(aggregate: bytes) -> list[Triple]:
    """What aws-kinesis-agg (PyPI) makes of the data of one record; itself, if it is none."""
    read = deaggregate_records(
        [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "sequenceNumber": "1",
                    "approximateArrivalTimestamp": 0,
                    "partitionKey": "outer",
                    "explicitHashKey": None,
                    "data": base64.b64encode(aggregate),
                }
            }
        ]
    )
    inner = [each["kinesis"] for each in read]
    return [
        (each["partitionKey"], each["explicitHashKey"], base64.b64decode(each["data"]))
        for each in inner
    ]


def python_writes(records: Sequence[Record]) -> bytes:
    """The aggregate that aws-kinesis-agg (PyPI) makes of these; they have to fit into 1 MiB."""
    writer = AggRecord()
    for each in records:
        assert writer.add_user_record(each.partition_key, each.data, each.explicit_hash_key)
    written: bytes = writer.get_contents()[2]
    return written


def _node(asked: dict[str, Any]) -> Any:
    ran = subprocess.run(
        ["node", "aggregates.js"],
        input=json.dumps(asked).encode() + b"\n",
        cwd=NODE,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return json.loads(ran.stdout)


def node_reads(aggregate: bytes) -> list[Triple]:
    """What aws-kinesis-agg (npm) makes of the data of one record; ValueError if it is broken."""
    read = _node({"read": base64.b64encode(aggregate).decode()})
    if isinstance(read, dict):
        raise ValueError(read["error"])  # noqa: TRY004 - the type tells refusal from answer
    return [(key, hash_key, base64.b64decode(data)) for key, hash_key, data in read]


def node_writes(records: Sequence[Record]) -> bytes:
    """The aggregate that aws-kinesis-agg (npm) makes of these. It sorts keys that look like array
    indices ("0" to "4294967294"); give it others.
    """
    given = [
        (key, hash_key, base64.b64encode(data).decode()) for key, hash_key, data in triples(records)
    ]
    return base64.b64decode(_node({"write": given}))
