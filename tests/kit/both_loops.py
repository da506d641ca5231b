"""Tests that hold on asyncio's own loop and on uvloop's."""

import inspect
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test in a loop of its own, once of each kind (`run` of tests/unit/conftest.py)."""

    @wraps(test)
    def run_it(run: Callable[[Any], Any], **given: Any) -> None:
        run(test(**given))

    # pytest would take what is wrapped for the test.
    del run_it.__wrapped__
    asked = inspect.signature(test).parameters.values()
    loop = inspect.Parameter("run", inspect.Parameter.KEYWORD_ONLY)
    alone = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in asked]
    run_it.__signature__ = inspect.Signature([loop, *alone])  # type: ignore[attr-defined]
    return run_it
