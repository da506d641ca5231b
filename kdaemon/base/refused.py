"""That records are not admitted, and why: a value, which whoever answers the client renders.

Pure. Made by whoever finds the reason (the registry of streams, the disk, the door); counted by the
door alone, once, under its reason.
"""

from dataclasses import dataclass

from kdaemon.base.counters import RejectReason


@dataclass(frozen=True, slots=True)
class Refused:
    """`reason`: under what the records are counted. `code`: the service's word, for SDKs.
    `message`: what was wrong, what was expected, what to do. `is_permanent`: the same request will
    be refused again, unless somebody changes something; where it is not, sending it again later may
    do.
    """

    reason: RejectReason
    code: str
    message: str
    is_permanent: bool
