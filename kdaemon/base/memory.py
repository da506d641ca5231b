"""The budget of memory that all streams share.

Counts what Python really holds for a record, so that the resident size follows the setting. Who
takes must give back, once: a frame takes when it is admitted and gives when it is settled.
"""


class MemoryBudget:
    """Bytes out of a fixed total. Full: `take` says no and takes nothing; the client is held back
    or refused at the door.
    """

    __slots__ = ("bytes_max", "bytes_taken")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_taken = 0

    def take(self, byte_count: int) -> bool:
        if self.bytes_taken + byte_count > self.bytes_max:
            return False
        self.bytes_taken += byte_count
        return True

    def give(self, byte_count: int) -> None:
        assert byte_count <= self.bytes_taken, "more given back than was taken"
        self.bytes_taken -= byte_count
