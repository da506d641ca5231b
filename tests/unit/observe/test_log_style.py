"""One style for all lines of the log, as `observe/logs.py` says it: the text is constant, values
are fields, and a field has one name everywhere.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "kdaemon"
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
NAMES = ("PutRecords", "TLS")  # with which a text may begin although it is no name of ours
DEFECT = ": a defect of kdaemon"
OTHER_WORDS = {
    "why": "error",
    "problem": "error",
    "message": "error",
    "exception": "error",
    "process": "pid",
    "number": "worker",
    "path": "at, file or directory",
    "count": "what is counted",
}
"""Names of fields that are not used, and those that are used in their place."""


FILES = sorted(
    str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "log." in path.read_text()
)
"""Those that may log. The tests parse them: each process of a test run imports this file."""


def calls(file: str) -> Iterator[tuple[str, ast.Call, ast.AST]]:
    """Each call that logs, with its place and the function around it."""
    for around in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if not isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(around):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in METHODS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
            ):
                yield f"{file}:{node.lineno}", node, around


def texts(call: ast.Call, around: ast.AST) -> list[str]:
    """The texts that a call may log: a constant, or the constants that a name may stand for."""
    given = call.args[0]
    if not isinstance(given, ast.Name):
        found = [given]
    else:
        found = [
            node.value
            for node in ast.walk(around)
            if isinstance(node, ast.Assign)
            and any(isinstance(to, ast.Name) and to.id == given.id for to in node.targets)
        ]
    whole = [each for one in found for each in one_of(one)]
    is_made = any(isinstance(each, ast.JoinedStr | ast.BinOp) for each in whole)
    assert not is_made, f"line {call.lineno}: values: fields"
    return [str(each.value) for each in whole if isinstance(each, ast.Constant) and each.value]


def one_of(node: ast.expr) -> Iterator[ast.expr]:
    """Both sides of a choice."""
    if isinstance(node, ast.IfExp):
        yield from (*one_of(node.body), *one_of(node.orelse))
    else:
        yield node


@pytest.mark.parametrize("file", FILES)
def test_a_text_is_constant_and_what_others_said_stands_behind_a_colon(file: str) -> None:
    for place, call, around in calls(file):
        for text in texts(call, around):
            is_sentence = text[:1].islower() or text.startswith(NAMES) or text == "%s"
            assert is_sentence, f"{place}: it is no sentence"
            assert not text.endswith("."), f"{place}: fields follow"
            if "%" in text:
                is_constant = text == "%s" or text.removesuffix(": %s").count("%") == 0
                assert is_constant, f"{place}: values: fields"
        assert len(call.args) <= 2, place


@pytest.mark.parametrize("file", FILES)
def test_an_error_that_nobody_foresaw_is_told_as_a_defect(file: str) -> None:
    for place, call, around in calls(file):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "exception":
            assert [text for text in texts(call, around) if not text.endswith(DEFECT)] == [], place


def test_what_listens_is_told_in_one_place() -> None:
    told = {
        file
        for file in FILES
        for _, call, around in calls(file)
        if any(text.endswith(("listening", "listens")) for text in texts(call, around))
    }
    assert told == {"http/listener.py"}


@pytest.mark.parametrize("file", FILES)
def test_a_field_has_one_name_everywhere(file: str) -> None:
    for place, call, around in calls(file):
        for node in ast.walk(around):
            is_fields = isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and any(
                isinstance(each, ast.Name) and each.id == "fields" for each in ast.walk(node)
            )
            if is_fields or node is call:
                for table in ast.walk(node):
                    keys = table.keys if isinstance(table, ast.Dict) else []
                    for key in keys:
                        name = key.value if isinstance(key, ast.Constant) else ""
                        word = OTHER_WORDS.get(str(name))
                        assert word is None, f"{place}: call it {word}"


def test_the_calls_are_found() -> None:
    assert len([call for file in FILES for call in calls(file)]) > 80
