"""Markers of what tests need, and their table."""

import tomllib

import pytest

from tests.kit.tools import ROOT, WHY_NOT, why_not


def test_every_tool_has_a_marker_and_every_marker_but_one_is_a_tool() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    registered = {each.partition(":")[0] for each in options["markers"]}
    assert registered == {*WHY_NOT, "pure(why)"}


@pytest.mark.parametrize("name", WHY_NOT)
def test_a_tool_is_here_or_what_is_missing_has_words(name: str) -> None:
    assert why_not(name) is None or " " in str(why_not(name))


def test_a_tool_that_is_nowhere_on_the_path_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert WHY_NOT["java"]() == "java is not on this machine"
