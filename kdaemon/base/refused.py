"""A refusal to admit records, as a value; the code that answers the client renders it.

Pure. Made by the code that finds the reason (the registry of streams, the disk, the door). Only the
door counts it, once, under its reason.
"""

from dataclasses import dataclass

from kdaemon.base.counters import RefuseReason


@dataclass(frozen=True, slots=True)
class Refused:
    """`reason`: the records are counted under it. `code`: the service's word, for SDKs. `message`:
    what was wrong, what was expected, what to do. `is_permanent`: the same request will be refused
    again, unless a person changes something; if not, sending it again later may succeed.
    """

    reason: RefuseReason
    code: str
    message: str
    is_permanent: bool
