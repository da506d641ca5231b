"""Names of the keys that fill a hot shard, and advice on what to do about them.

About: a shard's load (`engine/hot_keys.py`) in a few words for an operator. A key is shown as text
only if `observe.show_keys` is set: keys may be names of people. Otherwise the first 12 hexadecimal
digits of the SHA-256 of its UTF-8 are shown. Whoever suspects a key can compare:

    printf %s 'customer-42' | sha256sum | cut -c1-12

An explicit hash key is hashed as its decimal without leading zeros. The hash has no secret: with
one, nobody outside the process could compute it. Whoever may read the page can try guesses.
Pure. Flow: snapshot.py -> here -> status.py, hot.py.
"""

from hashlib import sha256

from kdaemon.base.text import printable
from kdaemon.engine.hot_keys import ShardLoad
from kdaemon.engine.snapshot import EngineSnapshot
from kdaemon.route.sketch import Key

# A field of log lines; a key as text, if keys were shown when the line was logged.
KEY_FIELD = "heaviest_key"

HASH_DIGITS = 12  # of the hash of a key: 48 bits, so no two keys of a page look alike; 2026-11-28

WHOLE = 1.0  # the whole quota of a shard

HELD_BACK = 1.1
"""A hot shard that gets at most this part of its quota: its clients wait for answers and send no
faster, so nobody knows how much they would send. Ours, 2026-11-28."""


def key_name(key: Key, *, shows_keys: bool) -> str:
    text = str(key)
    if shows_keys:
        return printable(text)
    return sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def advice(load: ShardLoad, engine: EngineSnapshot) -> str:
    """How much comes for the shard, which key causes that if one does, and what helps. Names no
    key.
    """
    quota = "bytes" if load.is_of_bytes else "records"
    begin = f"at {load.quota_part:.0%} of its quota of {quota}"
    first = load.keys[0] if load.keys else None
    part = 0.0 if first is None else load.part_of(first)
    told = f"{begin}: key #1 is {part:.0%} of that"
    if part * load.quota_part > WHOLE:
        return f"{told}, more than a shard takes: splitting will not help; spread this key"
    if part > 1 / 2 and load.quota_part <= HELD_BACK:
        return (
            f"{told}, and clients that wait hold more back: splitting frees {1 - part:.0%} at most;"
            " spread this key"
        )
    split = load.split
    if engine.is_on_demand:
        return f"{told}: the service splits the shard by itself, if this lasts"
    if not engine.splits_shards:
        return f"{told}: give the stream more shards"
    if split is None:
        return f"{told}: the shard cannot be split; spread its keys"
    below = f"{split.part_below:.0%} below, {1 - split.part_below:.0%} from there on"
    text = f"{told}: split at hash {split.hash_key} ({below})"
    larger = max(split.part_below, 1 - split.part_below) * load.quota_part
    if larger > WHOLE:
        text += f", and again: one half will be at {larger:.0%} still"
    return text
