"""What an engine knows of its stream: whether calls succeed. Values only; pure.

Where it sits: the engine tells its health, and the spool divides the memory by it
(`spool/room.py`).
"""

from enum import Enum


class Health(Enum):
    """The health of one stream, as of its last call."""

    WELL = "well"  # the service took a call, and none has failed since
    TOLD = "told"  # the service told of the stream; no call has returned
    UNTRIED = "untried"  # no call has returned, and the service did not tell
    ILL = "ill"  # the last call failed (an outage, a hold), or nothing may be sent at all
