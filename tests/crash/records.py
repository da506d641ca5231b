"""Records that can be told apart and made again: each is a function of seed, source and number.

So nobody keeps what was sent: the oracle makes a record anew from the id in its data and compares
every byte, key and hash key. A source is one client; its numbers below `sent_count` were sent.
"""

from dataclasses import dataclass
from hashlib import shake_128

POISON_EVERY = 1499  # one record in so many is one that the service refuses for itself
POISON_OFFSET = 211
HOT_KEY = "hot"  # of a fifth of the records: its shard is slower than what comes for it
HOT_KINDS = (3, 4)
NUMBER_BITS = 40  # of a record's id; the source's index stands above them


@dataclass(frozen=True, slots=True)
class Sample:
    """One record as a client sends it. `key` "": it has none, and asks to be spread."""

    data: bytes
    key: str
    explicit_hash_key: str | None


class Source:
    """The records of one client, for one stream. `can_spread`: some have no partition key."""

    __slots__ = ("can_spread", "index", "seed", "sent_count", "stream")

    def __init__(self, seed: int, index: int, stream: str, *, can_spread: bool) -> None:
        self.seed = seed
        self.index = index
        self.stream = stream
        self.can_spread = can_spread
        self.sent_count = 0

    def take(self, count: int) -> list[int]:
        """Numbers of the next `count` records, which count as sent from here on."""
        first = self.sent_count
        self.sent_count += count
        return list(range(first, first + count))

    def make(self, number: int) -> Sample:
        """Mostly some hundred bytes, some of KiB, a few of tens of KiB; keys of all kinds."""
        ident = b"%d.%d|" % (self.index, number)
        dice = shake_128(b"%d/%b" % (self.seed, ident))
        roll = int.from_bytes(dice.digest(24), "big")
        percent, roll = roll % 100, roll // 100
        if percent < 85:
            size = roll % 400
        elif percent < 97:
            size = roll % 4_000
        else:
            size = roll % 50_000
        roll //= 50_000
        kind, roll = roll % 10, roll // 10
        key = f"key-{roll % 200}" if kind else f"ключ-{roll % 20}"
        explicit_hash_key = str(roll % 2**128) if kind == 1 else None
        if kind == 2 and self.can_spread:
            key = ""
        elif kind in HOT_KINDS:
            key = HOT_KEY
        return Sample(ident + dice.digest(24 + size)[24:], key, explicit_hash_key)

    def id_of(self, number: int) -> int:
        return self.index << NUMBER_BITS | number


def is_poison(record_id: int) -> bool:
    """Whether the service refuses this record for itself; each source has them at other times."""
    index, number = ident_of(record_id)
    return (number + index * POISON_OFFSET) % POISON_EVERY == POISON_EVERY - 1


def number_of(record_id: int) -> int:
    return record_id & (1 << NUMBER_BITS) - 1


def ident_of(record_id: int) -> tuple[int, int]:
    """(source's index, number)."""
    return record_id >> NUMBER_BITS, number_of(record_id)


def shown(record_id: int) -> str:
    """As it stands in the data."""
    return "{}.{}".format(*ident_of(record_id))


def read_ident(data: bytes) -> tuple[int, int]:
    """(source's index, number) of some data. ValueError: it was never one of ours."""
    ident, mark, _ = data[:64].partition(b"|")
    if not mark:
        raise ValueError("no ident")
    index, _, number = ident.partition(b".")
    return int(index), int(number)
