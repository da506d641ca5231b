"""How much memory the records of clients may hold: logged at the start, and changed by a reload.

Invariant: request bodies that still arrive may hold a part of all memory, and the largest body fits
in any case. Where it sits: config -> here -> the budgets that http/ and the engines take from.
"""

import logging

from kdaemon.base.memory import ByteBudget
from kdaemon.config import Config
from kdaemon.http.hub import ConnectionLimits

log = logging.getLogger("kdaemon")

BODIES_FRACTION = 4  # request bodies still arriving may hold this part of memory_bytes_max


class Memory:
    """`all`: for records, wherever they are. `bodies`: the part of `all` for arriving bodies."""

    def __init__(self, config: Config) -> None:
        self.all = ByteBudget(0)
        self.bodies = ByteBudget(0, self.all)
        self.take_config(config)

    def take_config(self, new: Config) -> None:
        """Takes the bounds; what is held already may be above them."""
        most = new.memory_bytes_max
        self.all.bytes_max = most
        largest = min(ConnectionLimits().body_bytes_max, most)
        self.bodies.bytes_max = max(most // BODIES_FRACTION, largest)


def tell_memory(bytes_max: int, limit_bytes: int | None, beside_bytes: int) -> None:
    """Logs the limit, and warns if the container has too little memory for it. `limit_bytes`: of
    the container; None: there is no limit. `beside_bytes`: what all processes take beside the
    records of clients.
    """
    fields = {"memory_bytes_max": bytes_max}
    if limit_bytes is not None:
        fields["container_bytes"] = limit_bytes
    if limit_bytes is None or bytes_max + beside_bytes <= limit_bytes:
        log.info("memory for the records of clients", extra={"fields": fields})
        return
    text = (
        "the container's memory limit is too low for memory_bytes_max and what is beside it:"
        " raise the limit, or lower the setting"
    )
    log.warning(text, extra={"fields": {**fields, "beside_bytes": beside_bytes}})
