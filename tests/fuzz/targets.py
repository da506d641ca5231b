"""The targets of this package: its modules that have `one_input`."""

import importlib
import pkgutil
from types import ModuleType

import tests.fuzz

_TOOLS = {"__main__", "cuts", "engine", "json_text", "loop", "mutate", "targets", "test_fuzz"}


def target_names() -> list[str]:
    names = {module.name for module in pkgutil.iter_modules(tests.fuzz.__path__)}
    return sorted(names - _TOOLS)


def load(name: str) -> ModuleType:
    module = importlib.import_module(f"tests.fuzz.{name}")
    assert callable(module.one_input), f"tests/fuzz/{name}.py is no target"
    return module
