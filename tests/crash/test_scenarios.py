"""The catalogue of fault scenarios names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TEXT = (TESTS / "SCENARIOS.md").read_text()


def is_there(path: str, name: str) -> bool:
    file = TESTS / path
    if not file.is_file():
        return False
    return not name or re.search(rf"(?m)^ *(async )?def {name}\(", file.read_text()) is not None


def test_every_test_that_the_catalogue_names_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", TEXT))
    assert len(named) > 80
    assert [f"{path}::{name}" for path, name in sorted(named) if not is_there(path, name)] == []


def test_every_scenario_has_its_line() -> None:
    numbers = re.findall(r"(?m)^(\d+)\. ", TEXT)
    assert numbers == [str(number) for number in range(1, 36)]
