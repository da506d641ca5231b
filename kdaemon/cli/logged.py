"""Runs what a command started, with logs on standard error, and ends the process with its exit
code.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn

from kdaemon.system import SystemClock

if TYPE_CHECKING:
    from kdaemon.config import Config
    from kdaemon.observe.logs import LogHandler

log = logging.getLogger("kdaemon")


def run_logged(
    config: "Config", start: "Callable[[LogHandler], Coroutine[Any, Any, int]]"
) -> NoReturn:
    """Runs until the coroutine ends; exits with what it returns.

    The process exits at once: a thread that still waits for a resolver or a slow disk would delay
    Python's own end, and nothing needs its result any more.
    """
    import uvloop  # noqa: PLC0415 - see cli/__init__.py

    from kdaemon.observe.stderr import process_logs  # noqa: PLC0415 - see cli/__init__.py

    async def attached(logs: "LogHandler") -> NoReturn:
        logs.attach(asyncio.get_running_loop())
        try:
            exit_code = await start(logs)
        except Exception:
            log.exception("kdaemon failed: a defect of kdaemon")
            exit_code = 1
        logs.close()
        os._exit(exit_code)

    with process_logs(config.log, SystemClock()) as logs:
        uvloop.run(attached(logs))
    raise AssertionError("a run that ended without its exit code")
