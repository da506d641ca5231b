"""What objects do and make, seen by a test that has none of their attributes."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def made_of(patch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[Any]:
    """The objects that `module` makes of its class `name` from now on, in order. Not for a compiled
    module, which does not look its names up.
    """
    made: list[Any] = []
    make = getattr(module, name)

    def noted(*arguments: Any, **named: Any) -> Any:
        made.append(make(*arguments, **named))
        return made[-1]

    patch.setattr(module, name, noted)
    return made


def before(
    patch: pytest.MonkeyPatch, owner: object, name: str, look: Callable[..., object]
) -> None:
    """From now on `look` is called before each call of `owner.name`, with its arguments; what it
    raises, the caller gets.
    """
    real = getattr(owner, name)

    def looked_at(*arguments: Any, **named: Any) -> Any:
        look(*arguments, **named)
        return real(*arguments, **named)

    patch.setattr(owner, name, looked_at)
