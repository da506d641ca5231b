"""What an object makes for itself, handed to the test that has none of its attributes."""

from types import ModuleType
from typing import Any

import pytest


def made_of(patch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[Any]:
    """The objects that `module` makes of its class `name` from now on, in order. Not for a compiled
    module, which does not look its names up.
    """
    make, made = getattr(module, name), list[Any]()

    def noted(*arguments: Any, **named: Any) -> Any:
        made.append(make(*arguments, **named))
        return made[-1]

    patch.setattr(module, name, noted)
    return made
