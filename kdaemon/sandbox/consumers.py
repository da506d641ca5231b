"""Calls about consumers: registering, describing, listing and deregistering them.

Pure. As in `control.py`, each function takes the catalogue, a payload and the time. Only of AWS's
service: Yandex has no SubscribeToShard. A new consumer is CREATING for a moment, which clients must
expect. A deregistered consumer is gone at once; the service shows DELETING for a while.
Invariant: a refused call has changed nothing; a stream has CONSUMERS_MAX consumers at most.
Where it sits: between `service.py` and `catalogue.py`; `subscription.py` finds its consumer here.
"""

import re

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.sandbox import tags
from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.consumer import Consumer
from kdaemon.sandbox.control import page_of, require_fresh, token_of
from kdaemon.sandbox.payload import Payload, refuse
from kdaemon.sandbox.shards import Stream

CONSUMERS_MAX = 20  # of a stream [M]
CREATING_MAX = 5  # of an account in CREATING at once [M]
LIST_DEFAULT, LIST_MAX = 100, 10_000  # MaxResults of ListStreamConsumers [M]
CONSUMER_NAME_PATTERN = r"[a-zA-Z0-9_.-]{1,128}"  # [M]
_NAME = CONSUMER_NAME_PATTERN
# [M], with each part bounded, so that matching takes linear time
CONSUMER_ARN_PATTERN = (
    rf"arn:aws[a-z-]{{0,20}}:kinesis:[a-z0-9-]{{0,40}}:\d{{12}}:stream/{_NAME}"
    rf"/consumer/{_NAME}:[0-9]{{1,19}}"
)
_PARTS = re.compile(rf"[^/]*:stream/({_NAME})/consumer/({_NAME}):[0-9]{{1,19}}", re.ASCII)


def register(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """RegisterStreamConsumer: the consumer is CREATING for CREATING_NS."""
    stream = catalogue.find_by_arn(payload)
    name = payload.text("ConsumerName", CONSUMER_NAME_PATTERN)
    given = tags.tags_in(payload)
    if given is not None:
        tags.joined({}, given, name)
    if name in stream.consumers:
        raise refuse(
            "ResourceInUseException",
            f"Consumer {name} under stream {stream.name} under account "
            f"{catalogue.settings.account} already exists.",
        )
    if len(stream.consumers) >= CONSUMERS_MAX:
        raise refuse(
            "LimitExceededException",
            f"Stream {stream.name} under account {catalogue.settings.account} has "
            f"{CONSUMERS_MAX} registered consumers already, which is the limit.",
        )
    creating = sum(
        consumer.status(now_ns) == "CREATING"
        for each in catalogue.streams.values()
        for consumer in each.consumers.values()
    )
    if creating >= CREATING_MAX:
        raise refuse(
            "LimitExceededException",
            f"Account {catalogue.settings.account} has {creating} consumers in status CREATING "
            f"already; the limit is {CREATING_MAX}.",
        )
    seconds = (now_ns + catalogue.wall_offset_ns) // 1_000_000_000
    arn = f"{catalogue.arn_of(stream.name)}/consumer/{name}:{seconds}"
    consumer = stream.consumers[name] = Consumer(name, arn, now_ns)
    return {"Consumer": _form(catalogue, consumer, now_ns)}


def describe(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """DescribeStreamConsumer: by the consumer's ARN, or by the stream's ARN and the name."""
    stream, consumer = find(catalogue, payload)
    form = _form(catalogue, consumer, now_ns)
    form["StreamARN"] = catalogue.arn_of(stream.name)
    return {"ConsumerDescription": form}


def deregister(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """DeregisterStreamConsumer: its subscriptions end, and are told why."""
    stream, consumer = find(catalogue, payload)
    del stream.consumers[consumer.name]
    consumer.end(_not_found(catalogue, consumer.arn))
    return {}


class _Page(msgspec.Struct, array_like=True):
    """The contents of a NextToken."""

    stream: str
    after: str
    issued_ns: int


def list_consumers(catalogue: Catalogue, payload: Payload, now_ns: int) -> Answer:
    """ListStreamConsumers: ordered by name. NextToken comes together with the stream's ARN."""
    stream = catalogue.find_by_arn(payload)
    limit = payload.integer("MaxResults", 1, LIST_MAX, LIST_DEFAULT)
    made_ns = payload.timestamp_ns("StreamCreationTimestamp")
    token = payload.optional_text("NextToken")
    after = ""
    if token is not None:
        if made_ns is not None:
            raise refuse(
                "InvalidArgumentException",
                "NextToken and StreamCreationTimestamp cannot be provided together.",
            )
        after = _read_token(token, stream, now_ns)
    elif made_ns is not None:
        created_s = (stream.created_ns + catalogue.wall_offset_ns) // 1_000_000_000
        if made_ns // 1_000_000_000 != created_s:
            raise refuse(
                "ResourceNotFoundException",
                f"Stream {stream.name} under account {catalogue.settings.account} was not created "
                "at StreamCreationTimestamp.",
            )
    names = sorted(name for name in stream.consumers if name > after)
    page = names[:limit]
    answer: Answer = {
        "Consumers": [_form(catalogue, stream.consumers[name], now_ns) for name in page]
    }
    if len(names) > limit:
        answer["NextToken"] = token_of(_Page(stream.name, page[-1], now_ns))
    return answer


def _read_token(token: str, stream: Stream, now_ns: int) -> str:
    page = page_of(token, _Page)
    if page.stream != stream.name:
        raise refuse("InvalidArgumentException", "NextToken is not one of this stream's.")
    require_fresh(page.issued_ns, now_ns)
    return page.after


def delete_stream(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """DeleteStream: the stream goes, with its records. A stream that has consumers is deleted only
    with EnforceConsumerDeletion [M].
    """
    stream = catalogue.find_in(payload)
    if stream.consumers and payload.get("EnforceConsumerDeletion") is not True:
        raise refuse(
            "ResourceInUseException",
            f"Stream {stream.name} under account {catalogue.settings.account} has "
            f"{len(stream.consumers)} registered consumers; deregister them, or set "
            "EnforceConsumerDeletion.",
        )
    catalogue.delete(stream)
    for consumer in stream.consumers.values():
        consumer.end(_not_found(catalogue, consumer.arn))
    return {}


def find(catalogue: Catalogue, payload: Payload) -> tuple[Stream, Consumer]:
    """The consumer that a call means. All members that name it must agree."""
    arn = payload.optional_text("ConsumerARN", CONSUMER_ARN_PATTERN)
    stream_arn = payload.optional_arn("StreamARN")
    name = payload.optional_text("ConsumerName", CONSUMER_NAME_PATTERN)
    if arn is not None:
        stream, consumer = find_by_arn(catalogue, arn)
        if name not in (None, consumer.name) or (
            stream_arn is not None and catalogue.name_of(None, stream_arn) != stream.name
        ):
            raise refuse(
                "InvalidArgumentException",
                f"ConsumerARN {arn} is not of the consumer that StreamARN and ConsumerName name.",
            )
        return stream, consumer
    if stream_arn is None or name is None:
        raise refuse(
            "InvalidArgumentException",
            "Either ConsumerARN, or both StreamARN and ConsumerName, must be provided.",
        )
    stream = catalogue.find(catalogue.name_of(None, stream_arn))
    found = stream.consumers.get(name)
    if found is None:
        raise _not_found(catalogue, name)
    return stream, found


def find_by_arn(catalogue: Catalogue, arn: str) -> tuple[Stream, Consumer]:
    """The consumer of an ARN. As with streams, account and region are not compared; the creation
    time is.
    """
    named = _PARTS.fullmatch(arn)
    stream = None if named is None else catalogue.streams.get(named[1])
    consumer = None if stream is None or named is None else stream.consumers.get(named[2])
    if stream is None or consumer is None or _tail(consumer.arn) != _tail(arn):
        raise _not_found(catalogue, arn)
    return stream, consumer


def stream_named_in(payload: Payload) -> str | None:
    """The stream in a consumer's ARN, to choose a fault; None if there is none."""
    arn = payload.get("ConsumerARN")
    named = _PARTS.fullmatch(arn) if isinstance(arn, str) else None
    return None if named is None else named[1]


def _tail(arn: str) -> str:
    return arn.partition(":stream/")[2]


def _not_found(catalogue: Catalogue, what: str) -> ServiceError:
    return refuse(
        "ResourceNotFoundException",
        f"Consumer {what}, account {catalogue.settings.account}, not found.",
    )


def _form(catalogue: Catalogue, consumer: Consumer, now_ns: int) -> Answer:
    return {
        "ConsumerName": consumer.name,
        "ConsumerARN": consumer.arn,
        "ConsumerStatus": consumer.status(now_ns),
        "ConsumerCreationTimestamp": (
            (consumer.created_ns + catalogue.wall_offset_ns) // 1_000_000_000
        ),
    }
