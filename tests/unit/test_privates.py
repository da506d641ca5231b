"""Tests assert by what is public: nothing here reaches into what belongs to another object."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN = {"self", "cls"}

BREAKS = "breaks, or counts, what is inside, where nothing outside can"

ALLOWED = {
    "tests/unit/pack/test_kpl.py": "the bound of tables that nothing else shows",
    "tests/unit/cli/test_watch.py": "holds one table to another",
    "tests/unit/base/test_counters.py": "holds one table to another",
    "tests/unit/settle/test_verdict.py": "holds one table to another",
    "tests/unit/door/test_passthrough.py": BREAKS,
    "tests/unit/door/test_turns.py": BREAKS,
    "tests/unit/observe/test_tap.py": BREAKS,
    "tests/unit/sandbox/test_turns.py": BREAKS,
    "tests/unit/wire/test_put_cbor.py": BREAKS,
    "tests/unit/wire/test_refusals.py": BREAKS,
    "tests/unit/wire/test_steps.py": BREAKS,
    "tests/unit/http/test_tls.py": "a state that no caller can bring about",
    "tests/unit/http/test_http2_floods.py": "h2 tells nobody what it remembers",
    "tests/unit/send/test_pool.py": "aiohttp's resolver",
    "tests/unit/send/test_upstreams.py": "botocore's cache",
    "tests/unit/wire/test_signature.py": "botocore's signer",
    "tests/kit/template.py": "os._exit is the way to end a copy",
}
"""Files and directories that may, and why."""


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__")


def is_own(value: ast.expr) -> bool:
    return (isinstance(value, ast.Name) and value.id in OWN) or (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Name)
        and value.func.id == "super"
    )


def reaches(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines and names: attributes, imports, and what is put in their place by name."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=name) if is_private(name) and not is_own(value):
                yield node.lineno, name
            case ast.ImportFrom(names=names):
                yield from ((node.lineno, each.name) for each in names if is_private(each.name))
            case ast.Call(func=ast.Attribute(attr="setattr"), args=[_, ast.Constant(name), _]):
                if is_private(name):
                    yield node.lineno, str(name)


def test_no_test_and_no_bench_reaches_into_privates() -> None:
    found: dict[str, list[str]] = {name: [] for name in ALLOWED}
    strangers: list[str] = []
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        for line, private in reaches(ast.parse(path.read_text())):
            who = next((each for each in ALLOWED if name.startswith(each)), None)
            said = f"{name}:{line} {private}"
            (strangers if who is None else found[who]).append(said)
    assert not strangers, "give the class an audit(), or what is asked a name"
    assert all(found.values()), "who reaches no more is no more allowed to"
