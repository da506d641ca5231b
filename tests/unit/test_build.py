"""Which modules are compiled (setup.py), what they may not contain, and what a build needs."""

import ast
import functools
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdaemon.config.load import load_config

ROOT = Path(__file__).resolve().parents[2]
LOCKED = re.compile(r"(?m)^([a-z][\w.-]*==[\w.]+)[^\n\\]*\\\n((?: +--hash=sha256:\w+(?: \\)?\n)+)")


def loaded(name: str) -> ModuleType:
    """A file of the project that is no module of a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    pytest.importorskip("setuptools")
    return loaded("setup")


def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@functools.cache
def walked(path: str) -> tuple[ast.AST, ...]:
    """All nodes of a file, which several tests look at."""
    return tuple(ast.walk(parsed(path)))


@pytest.fixture(scope="module", autouse=True)
def _are_forgotten() -> Iterator[None]:
    yield
    walked.cache_clear()


def nodes(setup: ModuleType, kind: type[ast.AST]) -> Iterator[tuple[str, Any]]:
    for path in setup.compiled_modules():
        for node in walked(path):
            if isinstance(node, kind):
                yield path, node


def test_who_is_left_out_is_there_and_would_else_be_compiled(setup: ModuleType) -> None:
    for name in setup.PURE:
        assert (ROOT / "kdaemon" / name).exists(), name
        assert name.split("/")[0] in setup.ROOMS or name in setup.OTHERS, name
    compiled = setup.compiled_modules()
    assert all((ROOT / path).exists() for path in compiled)
    assert "kdaemon/engine/engine.py" in compiled
    assert "kdaemon/send/driver.py" in compiled
    assert "kdaemon/base/limits.py" in compiled, "kdaemon.build() asks this one"


def test_no_error_has_a_cause_which_would_be_forgotten(setup: ModuleType) -> None:
    """mypyc compiles `raise ... from error` as `raise ...`."""
    for path, node in nodes(setup, ast.Raise):
        is_none = isinstance(node.cause, ast.Constant) and node.cause.value is None
        assert node.cause is None or is_none, f"{path}:{node.lineno}"


def test_no_class_is_one_of_msgspec_s(setup: ModuleType) -> None:
    """mypyc does not pass on the keywords of a class, such as `frozen`."""
    for path, node in nodes(setup, ast.ClassDef):
        assert not [key.arg for key in node.keywords if key.arg != "metaclass"], path
        assert not any("Struct" in ast.unparse(base) for base in node.bases), path


def test_no_class_that_is_not_compiled_is_made_of_one_that_is(setup: ModuleType) -> None:
    """Such a class cannot be made, or, of an exception, cannot be raised."""
    compiled = {node.name: path for path, node in nodes(setup, ast.ClassDef)}
    modules = {path.removesuffix(".py").replace("/", ".") for path in setup.compiled_modules()}
    for path in ROOT.glob("kdaemon/**/*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name in setup.compiled_modules():
            continue
        taken = {
            alias.asname or alias.name
            for node in walked(name)
            if isinstance(node, ast.ImportFrom) and node.module in modules
            for alias in node.names
        }
        for node in walked(name):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases} & taken & compiled.keys()
                protocols = {base for base in bases if is_protocol(compiled[base], base)}
                assert bases == protocols, f"{name}: {node.name} is made of {bases - protocols}"


def is_protocol(path: str, name: str) -> bool:
    (found,) = (n for n in parsed(path).body if isinstance(n, ast.ClassDef) and n.name == name)
    return any(ast.unparse(base) == "Protocol" for base in found.bases)


def test_nobody_asks_for_a_weak_reference() -> None:
    """To an object of a compiled class that derives from a Python class it ends the process, when
    the object goes or the collector runs (mypyc 2.4.1 visits and clears it as its own).
    """
    for path in ROOT.glob("kdaemon/**/*.py"):
        assert "weakref" not in path.read_text(), path


def test_no_type_is_known_better_than_mypy_knows_it(setup: ModuleType) -> None:
    """What a checker is told to overlook is believed by the compiler."""
    told = [
        (path, line)
        for path in setup.compiled_modules()
        for line in (ROOT / path).read_text().splitlines()
        if "type: ignore[unreachable]" in line
    ]
    assert told == []


def test_what_a_callback_returns_is_not_looked_at(setup: ModuleType) -> None:
    """mypyc looks whether a `Callable[..., object]` gave None, and a lambda that ends in a call may
    give something else: mypy lets it pass.
    """
    for path, node in nodes(setup, ast.Subscript):
        if ast.unparse(node.value) == "Callable":
            assert isinstance(node.slice, ast.Tuple), f"{path}:{node.lineno}"
            returned = ast.unparse(node.slice.elts[1])
            assert returned != "None", f"{path}:{node.lineno}: say object"


def test_what_a_build_needs_is_what_the_tests_are_run_with(
    monkeypatch: pytest.MonkeyPatch, setup: ModuleType
) -> None:
    monkeypatch.setitem(sys.modules, "setup", setup)
    backend = loaded("build_backend")
    (needed,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    developed = dict(LOCKED.findall((ROOT / "requirements-dev.lock").read_text()))
    image = dict(LOCKED.findall((ROOT / "deploy/docker/build-requirements.lock").read_text()))
    assert sorted(image) == sorted([needed, *backend.MANUAL, *backend.COMPILER])
    assert needed in developed
    for package in backend.MANUAL + backend.COMPILER:
        assert image[package].split() == developed[package].split(), package


def test_the_types_of_all_libraries_that_are_compiled_against_are_there(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build has an environment of its own. In one without h2 it failed; without msgspec's types
    the compiled build ends the process.
    """
    monkeypatch.setitem(sys.modules, "setup", setup)
    known = sys.stdlib_module_names | {"kdaemon", "__future__"}
    used = {str(node.module).split(".")[0] for _, node in nodes(setup, ast.ImportFrom)}
    used |= {each.name.split(".")[0] for _, node in nodes(setup, ast.Import) for each in node.names}
    assert used - known == set(setup.LIBRARIES)
    backend = loaded("build_backend")
    brought = {package.partition("==")[0] for package in backend.MANUAL + backend.COMPILER}
    assert set(setup.LIBRARIES) <= brought
    monkeypatch.setattr(setup, "LIBRARIES", ("msgspec", "no_such_library"))
    pytest.importorskip("mypyc.build")
    with pytest.raises(SystemExit, match="without the types of no_such_library"):
        setup.extensions("")


@pytest.mark.parametrize("asked", ["compiled", "pure", ""])
def test_what_is_built_is_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, setup: ModuleType, asked: str
) -> None:
    for can in (True, False):
        monkeypatch.setenv("KDAEMON_BUILD", asked)
        monkeypatch.setattr(setup, "can_compile", lambda can=can: can)
        if asked == "compiled" and not can:
            with pytest.raises(SystemExit, match="no C compiler here"):
                setup.is_to_be_compiled()
        else:
            assert setup.is_to_be_compiled() is (can and asked != "pure")
    monkeypatch.setenv("KDAEMON_BUILD", "fast")
    with pytest.raises(SystemExit, match="expected compiled, pure or nothing"):
        setup.is_to_be_compiled()


def test_what_a_build_is_asked_for_is_no_setting_of_a_daemon() -> None:
    """`KDAEMON_BUILD=pure uvx --from . kdaemon run` builds and runs in one environment."""
    asked = set(re.findall(r'environ\.get\("(\w+)"', (ROOT / "setup.py").read_text()))
    ours = {name for name in asked if name.startswith("KDAEMON_")}
    assert "KDAEMON_BUILD" in ours
    load_config(environ=dict.fromkeys(ours, "pure"))


def test_uvx_builds_anew_whatever_in_a_wheel_has_changed() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    patterns = [key["file"] for key in tools["uv"]["cache-keys"] if "file" in key]
    looked_at = {path for pattern in patterns for path in ROOT.glob(pattern)}
    data = tools["setuptools"]["package-data"]["kdaemon"]
    made_of = {ROOT / "kdaemon" / name for name in data} | {*ROOT.glob("kdaemon/**/*.py")}
    made_of |= {ROOT / name for name in ("pyproject.toml", "setup.py", "build_backend.py")}
    assert made_of - looked_at == {ROOT / "kdaemon" / "py.typed"}, "which is empty"
    assert {"env": "KDAEMON_BUILD"} in tools["uv"]["cache-keys"]


def test_what_goes_into_the_source_distribution_is_there() -> None:
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        assert all((ROOT / name).exists() for name in line.removeprefix("include ").split())
