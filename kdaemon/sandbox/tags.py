"""Tags of streams, and the limits of the account: what tools ask for beside shards and records.

Pure. As in `control.py`, each function takes the catalogue, a payload and the time. Only of AWS's
service: Yandex documents neither. Invariant: a refused call has changed nothing, and a stream has
TAGS_MAX tags at most.
"""

import re
from collections.abc import Mapping

from kdaemon.sandbox.catalogue import Answer, Catalogue
from kdaemon.sandbox.payload import Payload, refuse

TAGS_MAX = 50  # of a stream [M]
TAGS_A_CALL_MAX = 200  # in AddTagsToStream [M]
TAG_KEY_CHARACTERS_MAX = 128  # [M]
TAG_VALUE_CHARACTERS_MAX = 256  # [M]
SHARD_LIMIT = 500  # of a new account in the larger regions [AD]
ON_DEMAND_STREAM_LIMIT = 50  # of an account [AD]
_TAG_CHARACTERS = re.compile(r"[\w\s.:/=+\-@]*")  # letters of all scripts [M]


def add_tags(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """AddTagsToStream: a tag that exists gets the new value."""
    stream = catalogue.find_in(payload)
    tags = tags_in(payload)
    if tags is None:
        raise _invalid("not be null")
    stream.tags = joined(stream.tags, tags, stream.name)
    return {}


def list_tags(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """ListTagsForStream: ordered by key."""
    stream = catalogue.find_in(payload)
    limit = payload.integer("Limit", 1, TAGS_MAX, default=TAGS_MAX)
    after = payload.optional_text("ExclusiveStartTagKey")
    keys = sorted(key for key in stream.tags if after is None or key > after)
    return {
        "Tags": [{"Key": key, "Value": stream.tags[key]} for key in keys[:limit]],
        "HasMoreTags": len(keys) > limit,
    }


def remove_tags(catalogue: Catalogue, payload: Payload, _now_ns: int) -> Answer:
    """RemoveTagsFromStream: a tag that does not exist is ignored."""
    stream = catalogue.find_in(payload)
    keys = payload.get("TagKeys")
    if keys is None:
        raise _invalid("not be null", "tagKeys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise refuse("SerializationException", "TagKeys must be a list of strings")
    if not 1 <= len(keys) <= TAGS_MAX:
        bounds = "have length less than or equal to 50, and greater than or equal to 1"
        raise _invalid(bounds, "tagKeys")
    stream.tags = {key: value for key, value in stream.tags.items() if key not in keys}
    return {}


def tags_in(payload: Payload) -> dict[str, str] | None:
    """The member `Tags` of a call; None if it is absent."""
    tags = payload.get("Tags")
    if tags is None:
        return None
    if not isinstance(tags, dict):
        raise refuse("SerializationException", "Tags must be a map of strings")
    if not 1 <= len(tags) <= TAGS_A_CALL_MAX:
        raise _invalid(f"have length from 1 to {TAGS_A_CALL_MAX}")
    found: dict[str, str] = {}
    for key, value in tags.items():
        if not isinstance(value, str):
            raise refuse("SerializationException", "Tags must be a map of strings")
        if not 1 <= len(key) <= TAG_KEY_CHARACTERS_MAX:
            raise _invalid(f"have keys of 1 to {TAG_KEY_CHARACTERS_MAX} characters")
        if len(value) > TAG_VALUE_CHARACTERS_MAX:
            raise _invalid(f"have values of at most {TAG_VALUE_CHARACTERS_MAX} characters")
        found[key] = value
    return found


def joined(tags: Mapping[str, str], more: Mapping[str, str], stream: str) -> dict[str, str]:
    """A stream's tags with `more`; of equal keys the new value counts. ServiceError if not
    valid.
    """
    if not all(map(_TAG_CHARACTERS.fullmatch, (*more, *more.values()))):
        raise refuse(
            "InvalidArgumentException",
            "Some tags contain invalid characters. Valid characters: Unicode letters, digits, white"
            " space, _ . : / = + - @.",
        )
    if any(key.lower().startswith("aws:") for key in more):
        text = "A key with the prefix aws: is reserved for the service's own tags."
        raise refuse("InvalidArgumentException", text)
    both = {**tags, **more}
    if len(both) > TAGS_MAX:
        raise refuse(
            "InvalidArgumentException",
            f"Failed to add tags to stream {stream} because a given stream cannot have more than"
            f" {TAGS_MAX} tags associated with it.",
        )
    return both


def describe_limits(catalogue: Catalogue, _payload: Payload, _now_ns: int) -> Answer:
    """DescribeLimits. Shards of on-demand streams are not counted [M]. The sandbox's own bounds are
    different ones.
    """
    streams = catalogue.streams.values()
    return {
        "ShardLimit": SHARD_LIMIT,
        "OpenShardCount": sum(len(each.open_shards) for each in streams if not each.is_on_demand),
        "OnDemandStreamCount": sum(each.is_on_demand for each in streams),
        "OnDemandStreamCountLimit": ON_DEMAND_STREAM_LIMIT,
    }


def _invalid(must: str, member: str = "tags") -> Exception:
    text = f"1 validation error detected: Value at '{member}' failed to satisfy constraint:"
    return refuse("ValidationException", f"{text} Member must {must}")
