"""The engine's grammar is closed: who may ask an engine for what.

What is inside an engine is known to itself, to its shell (`send/driver.py`) and to its stream
(`streams/`). Those who look ask for a snapshot. import-linter holds who may import what; here
stands what may be asked of an engine where there is one.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdaemon.engine import Engine
from kdaemon.observe.reading import SeenEngine
from tests.kit.engine_rig import Rig

PACKAGE = Path(__file__).resolve().parents[2] / "kdaemon"

SHELL = {"send/driver.py", "streams/stream.py"}

FOR_THE_SHELL = {
    # what happens goes in
    *("begin_drain", "give_up", "give_up_missing", "take_to_be_there", "take_description"),
    # what is owed comes out
    *("take_settled", "next_wakeup_ns"),
    # what admission asks
    *("refusal_at", "has_room", "is_missing", "is_idle", "is_refusing", "is_auto"),
    *("record_bytes_max", "hold", "unavailable", "missing", "health"),
    *("counters", "ledger", "freshness"),
    # where the records of the disk go
    "ways",
}


def is_grammar(name: str) -> bool:
    return name.startswith(("handle_", "poll_")) or name == "snapshot"


def asked(path: Path) -> Iterator[tuple[str, int]]:
    """What is asked of what is called `engine`, and where."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)) if "engine" in text else ():
        if not isinstance(node, ast.Attribute):
            continue
        of = node.value
        name = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")
        if name in {"engine", "_engine"}:
            yield node.attr, node.lineno


def test_only_the_shell_and_those_who_look_ask_an_engine() -> None:
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if any(asked(path))}
    assert {file for file in files if not file.startswith(("engine/", "observe/"))} == SHELL


def test_those_who_look_have_no_engine() -> None:
    """But reading.py, as `SeenEngine`; mypy holds that what others call so is a snapshot."""
    for path in (PACKAGE / "observe").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "kdaemon.engine", path


@pytest.mark.parametrize("file", sorted(SHELL))
def test_the_shell_asks_for_what_is_its_own(file: str) -> None:
    for name, line in asked(PACKAGE / file):
        assert is_grammar(name) or name in FOR_THE_SHELL, f"{file}:{line}: engine.{name}"


def test_those_who_look_ask_in_the_grammar() -> None:
    seen = {name for name in vars(SeenEngine) if not name.startswith("_")}
    assert "snapshot" in seen
    assert {name for name in seen if not is_grammar(name)} == {"is_idle"}


def test_all_that_can_be_asked_is_in_the_grammar_or_of_the_shell() -> None:
    """Of what is told, one is a question, and the others are of a snapshot, and for tests."""
    told = {"capacity", "has_record_readers", "audit"}
    made = inspect.getmembers(Engine) + inspect.getmembers(Rig().engine)
    public = {name for name, _ in made if not name.startswith("_")}
    assert {name for name in public if not is_grammar(name)} <= FOR_THE_SHELL | told
