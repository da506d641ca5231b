"""A real stream over a driver that makes no calls: what a test says of the driver is what happens.

The stream and its engine are real, because compiled code takes their own classes alone.
"""

from collections.abc import Callable
from typing import Any

from kdaemon.base.description import StreamTarget
from kdaemon.base.errors import ServiceError
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.ports import Clock
from kdaemon.base.record import Record
from kdaemon.base.service import AWS
from kdaemon.config import StreamConfig
from kdaemon.engine import Engine
from kdaemon.send.dry_runs import DryRuns
from kdaemon.streams import Stream
from kdaemon.streams.inquiry import Word
from kdaemon.streams.laid_out import engine_settings
from tests.kit.clock import HandClock
from tests.kit.streams import FakeService, FixedDice


class WouldTake(DryRuns):
    """A service that answers each dry run at once."""

    def ask(
        self,
        records: list[Record],
        told: Callable[[ServiceError], object],
        timeout_s: float,
        arn: str | None,
    ) -> None:
        told(ServiceError("DryRunOperationException", "It would have been taken.", status=400))


class ScriptedDriver:
    """Takes every frame. `withdrawn`: frames whose clients have gone."""

    can_ask = True
    is_idle = True
    encryption_type = "NONE"

    def __init__(self, config: StreamConfig, memory: ByteBudget) -> None:
        self.engine = Engine(engine_settings(config, AWS), memory, FixedDice(), 0)
        self.target = StreamTarget(config.name, is_listed=True)
        self.dry_runs: DryRuns = WouldTake(self.target, FakeService())
        self.withdrawn: list[Frame] = []

    def submit(self, frame: Frame, is_patient: bool = False) -> bool:
        return True

    def submit_spooled(self, frame: Frame) -> bool:
        return True

    def withdraw(self, frame: Frame) -> None:
        self.withdrawn.append(frame)

    def when_room(self, callback: Callable[[], object]) -> None:
        raise AssertionError("nobody waits here")

    def ask_again(self) -> None: ...
    def doubt_limits(self) -> None: ...


def scripted_stream(
    config: StreamConfig,
    driver: ScriptedDriver,
    memory: ByteBudget,
    spool: Any = None,
    clock: Clock | None = None,
) -> Stream:
    """A listed stream of which the service has told."""
    stream = Stream(config, AWS, driver, clock or HandClock(), memory, spool)
    stream.inquiry.hear(Word.FOUND)
    return stream
