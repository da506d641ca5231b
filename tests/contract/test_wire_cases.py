"""The sandbox and the daemon against recorded requests and answers, in JSON and in CBOR.

Each case is sent as it was recorded; those whose body is members of JSON also in CBOR, as the SDKs
for Java write them: the answer must be the same one, in CBOR. What differs from the record is in
the table (`differences.py`), with its reason, and has to differ.
"""

import base64
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from tests.contract.differences import WIRE, WIRE_TEXTS
from tests.kit import cbor
from tests.kit.endpoints import AUTHORIZATION, CONTENT_TYPES, Answer, Endpoint, send

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "wire-cases.json").read_text()
)
XML = re.compile(r"<(\w+)(?:>\s*<Message>(.*?)</Message>)?", re.DOTALL)
_numbers = itertools.count(1)


def filled(value: Any, stream: str, arn: str) -> Any:
    if isinstance(value, str):
        return value.replace("{S}", stream).replace("{ARN}", arn)
    if isinstance(value, list):
        return [filled(each, stream, arn) for each in value]
    if isinstance(value, dict):
        if set(value) == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        return {name: filled(member, stream, arn) for name, member in value.items()}
    return value


def record(number: int, size: int) -> dict[str, str]:
    data = base64.b64encode(b"x" * size).decode()
    return {"PartitionKey": f"{number % 100:02d}", "Data": data}


def members_of(case: dict[str, Any], stream: str, arn: str) -> dict[str, Any] | None:
    """The members that a case sends in JSON."""
    made = case.get("body_gen", {"kind": None})
    if made["kind"] == "records":
        entries = [record(number, made["size"]) for number in range(made["n"])]
        return {"StreamName": stream, "Records": entries}
    if made["kind"] == "record":
        return {"StreamName": stream, **record(0, made["size"])}
    if "body_json" in case:
        found: dict[str, Any] = filled(case["body_json"], stream, arn)
        return found
    return None


def body_of(case: dict[str, Any], stream: str, arn: str) -> bytes:
    members = members_of(case, stream, arn)
    if members is not None:
        return json.dumps(members).encode()
    if "body_b64" in case:
        return base64.b64decode(case["body_b64"])
    made = case["body_gen"]
    if made["kind"] == "cbor":
        return cbor2.dumps(filled(made["value"], stream, arn))
    entries = tuple({"Data": b"\0\xff", "PartitionKey": f"pk{n}"} for n in range(made["n"]))
    return cbor.java({"Records": entries, "StreamName": stream})


def sent(
    endpoint: Endpoint, encoding: str, stream: str, arn: str
) -> Iterator[tuple[dict[str, Any], Answer, str]]:
    """Each case with its answer and the content type that the answer should have."""
    for case in CASES:
        headers = {"content-type": CONTENT_TYPES["json"], **case.get("headers", {})}
        body = body_of(case, stream, arn)
        if encoding == "cbor":
            members = members_of(case, stream, arn)
            if members is None or headers["content-type"] != CONTENT_TYPES["json"]:
                continue
            headers["content-type"] = CONTENT_TYPES["cbor"]
            body = cbor.java(cbor.of_json(members))
        headers = {
            "x-amz-target": "Kinesis_20131202.PutRecords",
            **{name.lower(): value for name, value in AUTHORIZATION.items()},
            **headers,
        }
        answer = send(endpoint.put_url, case.get("method", "POST"), body, headers)
        yield case, answer, headers["content-type"] or ""


def summary(answer: Answer, stream: str) -> dict[str, Any]:
    """As the record has it."""
    members = answer.members
    found: dict[str, Any] = {"status": answer.status}
    if answer.status != 200:
        xml = XML.match(answer.body.decode("latin-1"))
        found["__type"] = xml[1] if xml else members.get("__type")
        text = xml[2] if xml else members.get("message") or members.get("Message")
        if text is not None:
            text = re.sub(r"\b\d{12}\b", "<account>", text.replace(stream, "<stream>"))
            if len(text) > 700:
                text = f"{text[:500]} ...[{len(text)} chars]... {text[-150:]}"
            found["message"] = text
    elif "Records" in members:
        found["shards"] = [each.get("ShardId") for each in members["Records"]][:5]
    return found


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_recorded_requests_are_answered_as_recorded(endpoint: Endpoint, encoding: str) -> None:
    stream = endpoint.make_stream(f"wire-{next(_numbers)}", 3)
    arn = endpoint.wait_active(stream)["StreamARN"]
    differing, texts, count = set(), set(), 0
    for case, answer, content_type in sent(endpoint, encoding, stream, arn):
        name, recorded, found = case["id"], case["kinesalite"], summary(answer, stream)
        count += 1
        if any(found.get(key) != recorded.get(key) for key in ("status", "__type")):
            differing.add(name)
            continue
        assert found.get("shards") == recorded.get("shards"), name
        if "message" in recorded and found.get("message") != recorded["message"]:
            texts.add(name)
        if answer.status in (200, 400):
            told_in = content_type.partition(";")[0]
            assert answer.headers["content-type"] == told_in, name
    names = set(WIRE) | set(WIRE_TEXTS)
    if encoding == "cbor":
        names -= {"http.bad_utf8"}  # its body is bytes of JSON
        assert count > 45
    else:
        assert count == len(CASES) == 64
    assert (differing, texts) == (names & set(WIRE), names & set(WIRE_TEXTS))


def test_what_differs_is_less_than_before_and_named_once() -> None:
    assert len(WIRE) < 12
    assert not set(WIRE) & set(WIRE_TEXTS)
