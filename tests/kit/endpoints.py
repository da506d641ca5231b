"""The services under contract, and a plain HTTP client for them.

An `Endpoint` has two addresses: `url`, where streams are made and read, and `put_url`, where
records are put. They are the same for a Kinesis; pointed at a daemon in front of one, they differ,
and the produce cases run unchanged.
"""

import base64
import contextlib
import http.client
import json
import select
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.kit import cbor
from tests.kit.daemon import Daemon
from tests.kit.patience import PATIENCE_S, wait_for

T = TypeVar("T")

NODE = Path(__file__).resolve().parents[1] / "contract"  # where the packages from npm are

CONTENT_TYPES = {"json": "application/x-amz-json-1.1", "cbor": "application/x-amz-cbor-1.1"}

# kinesalite and kinesis-local want these headers to be there; nobody verifies them.
AUTHORIZATION = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAFAKEFAKEFAKEFAKE/20261121/us-east-1/kinesis/"
    "aws4_request, SignedHeaders=host;x-amz-date, Signature=" + "0" * 64,
    "X-Amz-Date": "20261121T000000Z",
}


@dataclass(frozen=True)
class Answer:
    """What came back; `members` is the decoded body, {} where there was none or it was neither JSON
    nor CBOR.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def members(self) -> dict[str, Any]:
        is_cbor = self.headers.get("content-type") == CONTENT_TYPES["cbor"]
        try:
            decoded = cbor.members_of(self.body) if is_cbor else json.loads(self.body)
        except ValueError:
            return {}
        return decoded if isinstance(decoded, dict) else {}

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and the bare `__type`."""
        return self.status, str(self.members.get("__type", "")).rpartition("#")[2]


@dataclass
class Endpoint:
    """One service. `name` is looked up in the table of known differences. `encoding`: what calls
    are written in, json or cbor (as Java's SDKs write it), and what their answers must be in.
    `headers`: of every call, in place of ours.
    """

    name: str
    url: str
    put_url: str
    encoding: str = "json"
    headers: dict[str, str | None] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, daemon: Daemon, acknowledge: str | None = None) -> "Endpoint":
        """A daemon, and the service behind it. `acknowledge`: what its puts ask for."""
        asked: dict[str, str | None] = {"x-kdaemon-acknowledge": acknowledge}
        return cls("daemon", daemon.sandbox_url, daemon.url, headers=asked if acknowledge else {})

    def call(self, operation: str, **members: Any) -> Answer:
        """A control or reading call."""
        return self._post(self.url, operation, members)

    def put(self, operation: str, **members: Any) -> Answer:
        """PutRecord or PutRecords."""
        return self._post(self.put_url, operation, members)

    def _post(self, url: str, operation: str, members: dict[str, Any]) -> Answer:
        content_type = CONTENT_TYPES[self.encoding]
        body = json.dumps(members).encode()
        if self.encoding == "cbor":
            body = cbor.java(cbor.of_json(members))
        answer = post(url, operation, body, {"content-type": content_type, **self.headers})
        if self.encoding == "cbor":
            assert not answer.body or answer.headers["content-type"] == content_type
        return answer

    def put_raw(self, operation: str, body: bytes, **headers: str | None) -> Answer:
        """Whatever bytes; a header of None is left out, one given (`x_amz_target`) replaces ours"""
        return post(self.put_url, operation, body, headers)

    def put_lines(self, stream: str, lines: bytes, **headers: str) -> Answer:
        """As clients that are no SDK put them."""
        url = f"{self.put_url}/v1/streams/{stream}/records"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return send(url, "POST", lines, {**self.headers, **named})

    def answer(self, operation: str, **members: Any) -> dict[str, Any]:
        """As `call`, for a call that must go well."""
        answer = self.call(operation, **members)
        assert answer.status == 200, (operation, members, answer)
        return answer.members

    def answer_empty(self, operation: str, **members: Any) -> None:
        """A call that must go well and says nothing."""
        answer = self.call(operation, **members)
        assert answer.status == 200, (operation, members, answer)
        assert answer.members == {}

    def put_all(self, stream: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """PutRecords that must go well for every record; its results."""
        answer = self.put("PutRecords", StreamName=stream, Records=entries)
        assert answer.status == 200, answer
        assert answer.members["FailedRecordCount"] == 0
        results: list[dict[str, Any]] = answer.members["Records"]
        assert len(results) == len(entries)
        return results

    def make_stream(self, name: str, shard_count: int) -> str:
        """Creates a stream and waits until it is ACTIVE."""
        self.answer("CreateStream", StreamName=name, ShardCount=shard_count)
        self.made.append(name)
        self.wait_active(name)
        return name

    def wait_active(self, name: str) -> dict[str, Any]:
        """The stream's description, once nothing about it is changing any more."""

        def described() -> dict[str, Any] | None:
            answer = self.answer("DescribeStream", StreamName=name)["StreamDescription"]
            return answer if answer["StreamStatus"] == "ACTIVE" else None

        return wait_for(described, f"stream {name} at {self.name} to be ACTIVE")

    def wait_gone(self, name: str) -> None:
        def gone() -> bool | None:
            return self.call("DescribeStream", StreamName=name).status == 400 or None

        wait_for(gone, f"stream {name} at {self.name} to be gone")

    def shards(self, name: str) -> list[dict[str, Any]]:
        """All shards, open and closed, in the order of their ids."""
        shards: list[dict[str, Any]] = self.wait_active(name)["Shards"]
        return sorted(shards, key=lambda shard: str(shard["ShardId"]))

    def iterator(self, name: str, shard_id: str, kind: str, **members: Any) -> str:
        answer = self.answer(
            "GetShardIterator",
            StreamName=name,
            ShardId=shard_id,
            ShardIteratorType=kind,
            **members,
        )
        return str(answer["ShardIterator"])

    def read_shard(self, name: str, shard_id: str) -> list[dict[str, Any]]:
        """Every record of a shard from its beginning, until an answer brings none."""
        token: str | None = self.iterator(name, shard_id, "TRIM_HORIZON")
        found: list[dict[str, Any]] = []
        while token:
            answer = self.answer("GetRecords", ShardIterator=token)
            if not answer["Records"]:
                break
            found += answer["Records"]
            token = answer.get("NextShardIterator")
        return found

    def read_stream(self, name: str) -> list[dict[str, Any]]:
        """Every record, shard after shard."""
        return [
            record
            for shard in self.shards(name)
            for record in self.read_shard(name, shard["ShardId"])
        ]


def post(
    url: str, operation: str, body: bytes, headers: dict[str, str | None] | None = None
) -> Answer:
    """One request on its own connection. `headers`: as in `Endpoint.put_raw`."""
    sent: dict[str, str | None] = {
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": f"Kinesis_20131202.{operation}",
        **{name.lower(): value for name, value in AUTHORIZATION.items()},
    }
    sent.update({name.replace("_", "-"): value for name, value in (headers or {}).items()})
    return send(url, "POST", body, sent)


def send(url: str, method: str, body: bytes, headers: dict[str, str | None]) -> Answer:
    """One request on its own connection, with these headers alone; those of None are left out."""
    address = urllib.parse.urlsplit(url)
    assert address.hostname == "127.0.0.1", "contract tests stay on this machine"
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        kept = {name: value for name, value in headers.items() if value is not None}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A server that refuses a large body may answer before it has read all of it.
            connection.request(method, address.path or "/", body, kept)
        response = connection.getresponse()
        with contextlib.closing(response):
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )


def entry(data: bytes, key: str, explicit_hash_key: str | None = None) -> dict[str, Any]:
    """One entry of PutRecords."""
    made = {"Data": base64.b64encode(data).decode(), "PartitionKey": key}
    if explicit_hash_key is not None:
        made["ExplicitHashKey"] = explicit_hash_key
    return made


def data_of(record: dict[str, Any]) -> bytes:
    """The data of a record that was read."""
    return base64.b64decode(record["Data"])


def read_all(url: str, stream: str = "demo") -> list[bytes]:
    """The data of every record of a stream, at the service of this URL."""
    return [data_of(each) for each in Endpoint("sandbox", url, url).read_stream(stream)]


@contextlib.contextmanager
def process_with_port(command: list[str]) -> Iterator[int]:
    """Runs a server that prints its port as its first line and ends when its stdin does.

    It ends whatever happens: killed on the way out, and by the end of its stdin should we be
    killed.
    """
    with subprocess.Popen(
        command,
        cwd=NODE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
            line = process.stdout.readline() if ready else b""
            assert line.strip().isdigit(), f"{command} did not say its port, but {line!r}"
            yield int(line)
        finally:
            process.kill()


MOTO = """
import sys, threading, os
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
os._exit(0)
"""


def moto_command() -> list[str]:
    return [sys.executable, "-c", MOTO]
