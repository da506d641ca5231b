"""What is logged says one thing in one way, wherever it happens."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
DEFECT = ": a defect of kdaemon"


def lines() -> Iterator[tuple[str, str, str]]:
    """Of each line with a constant text: its level, where it is logged, and the text."""
    for path in sorted((ROOT / "kdaemon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of, text = node.func.value, node.args[0] if node.args else None
            is_log = isinstance(of, ast.Name) and of.id == "log" and node.func.attr in LEVELS
            if is_log and isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield node.func.attr, f"{path.relative_to(ROOT)}:{node.lineno}", text.value


BROKEN = [(where, text) for level, where, text in lines() if level == "exception"]


@pytest.mark.parametrize(("where", "text"), BROKEN, ids=[where for where, _ in BROKEN])
def test_an_error_that_nobody_foresaw_is_told_as_a_defect(where: str, text: str) -> None:
    assert text.endswith(DEFECT), where


def test_what_listens_is_told_in_one_place() -> None:
    told = [where for _, where, text in lines() if text.endswith(("listening", "listens"))]
    assert [where.partition(":")[0] for where in told] == ["kdaemon/http/listener.py"]
