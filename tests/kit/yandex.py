"""Yandex Data Streams as the sandbox imitates it, called as its server calls it, without one.

Nobody else imitates this service, so there is no second one to hold the sandbox to: the facts that
`test_yandex_*.py` pin are those of its source (ydb-platform/ydb: `http_proxy/`, `datastreams/`) and
of its documentation, as read 2026-11-28.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.service import YANDEX
from kdaemon.base.steps import at_once
from kdaemon.sandbox.service import Service
from kdaemon.sandbox.settings import SandboxSettings
from kdaemon.sandbox.wire import encoding_of, read_call, refusal
from kdaemon.wire.refusals import ApiError
from tests.kit import cbor
from tests.kit.endpoints import entry

JSON = "application/x-amz-json-1.1"
CBOR = "application/x-amz-cbor-1.1"
BASE = "/ru-central1/b1gcloud/etndatabase"
STREAM = f"{BASE}/orders"
LOW, HIGH = "0", str(HASH_KEY_MAX)


class Said(NamedTuple):
    """An answer of the sandbox."""

    status: int
    members: dict[str, Any]
    stalled_until_ns: int = 0

    @property
    def refusal(self) -> tuple[int, str, str]:
        return self.status, self.members["__type"], self.members["message"]


class Yandex:
    """The sandbox with a stream of two shards."""

    def __init__(self, shard_count: int = 2, *, can_split: bool = False, **settings: Any) -> None:
        self.service = Service(SandboxSettings(service=YANDEX, **settings))
        if shard_count:
            self.service.create_stream(STREAM, shard_count, can_split=can_split)

    def call(
        self,
        operation: str,
        members: object = None,
        *,
        now_ns: int = 0,
        path: str = "/",
        body: bytes | None = None,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> Said:
        """One request. `headers`: others, or in place of ours; names in lower case."""
        given = {
            "content-type": content_type,
            "x-amz-target": f"Kinesis_20131202.{operation}",
            **(headers or {}),
        }
        head = {name.encode(): value.encode() for name, value in given.items()}
        is_cbor = content_type == CBOR
        if body is None:
            body = cbor.java(cbor.of_json(members)) if is_cbor else json.dumps(members).encode()
        stalled_until_ns = 0
        try:
            call = at_once(read_call(self.service, "POST", path, head, body))
            fault = self.service.next_fault(call.operation, call.stream)
            reply = call.perform(now_ns, fault)
            stalled_until_ns = reply.stalled_until_ns
        except (ServiceError, ApiError) as error:
            reply = refusal(error, encoding=encoding_of(self.service, head))
        answer = cbor.members_of(reply.body) if is_cbor else json.loads(reply.body)
        return Said(reply.status, answer, stalled_until_ns)

    def put(self, *records: dict[str, Any], now_ns: int = 0) -> Said:
        return self.call("PutRecords", {"StreamName": STREAM, "Records": records}, now_ns=now_ns)

    def describe(self, **members: Any) -> dict[str, Any]:
        said = self.call("DescribeStream", {"StreamName": STREAM, **members})
        assert said.status == 200, said
        description: dict[str, Any] = said.members["StreamDescription"]
        return description


def issue(text: str, code: int = 500003) -> str:
    return f"<main>: Error: {text}, code: {code}\n"


def validation(text: str) -> tuple[int, str, str]:
    return 400, "ValidationException", issue(text)


def argument(text: str) -> tuple[int, str, str]:
    return 400, "InvalidArgumentException", text


GOOD = entry(b"good", "k")
