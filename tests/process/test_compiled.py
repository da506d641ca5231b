"""The compiled build: the same outcome as the pure one, and tests of the rooms that are compiled.

A part of it, for there is no time for all: the middle rooms, not optimised. `make test-compiled`
builds what users get, and runs the tests on that, with more examples.
"""

import importlib.util
from pathlib import Path
from zipfile import ZipFile

import pytest

import kdaemon
from tests.kit.compiled import MIDDLE, ROOT, Compiled, build, build_wheel
from tests.kit.depth import some
from tests.sim.digest import digest
from tests.unit.test_build import loaded

SEEDS = some(range(20))
QUICK = ("-p", "no:cacheprovider", "--hypothesis-profile", "quick")

pytestmark = pytest.mark.timeout(900)  # seconds: a compiler on a machine that is busy


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Half a minute."""
    if kdaemon.build() == "compiled":
        pytest.skip("these tests run in a compiled build already")
    needed = [name for name in ("setuptools", "mypyc") if importlib.util.find_spec(name) is None]
    if needed:
        pytest.skip(f"nothing is compiled without {' and '.join(needed)}")
    if not loaded("setup").can_compile():
        pytest.skip("there is no C compiler here, or no Python.h")
    env = {"KDAEMON_ROOMS": " ".join(MIDDLE), "KDAEMON_OPTIMISE": "0"}
    return build(tmp_path_factory.mktemp("compiled"), env, "--no-build-isolation")


@pytest.mark.compiler
def test_both_builds_come_to_the_same_for_the_same_seeds(compiled: Compiled) -> None:
    done = compiled.run("-m", "tests.sim.digest", *map(str, SEEDS))
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{seed} {digest(seed)}" for seed in SEEDS]


@pytest.mark.compiler
def test_the_rooms_that_are_compiled_pass_their_tests(compiled: Compiled) -> None:
    """And that they are what is tested."""
    where = "import kdaemon.pack.lane as lane, kdaemon; print(lane.__file__, kdaemon.build())"
    said = compiled.run("-c", where).stdout
    assert said.startswith(str(compiled.tree.parent))
    assert said.endswith(".so compiled\n")
    tests = [f"tests/unit/{room}" for room in MIDDLE if (ROOT / "tests" / "unit" / room).is_dir()]
    done = compiled.run("-m", "pytest", "-q", *QUICK, *tests)
    assert done.returncode == 0, done.stdout


def test_a_pure_wheel_is_always_to_be_had(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("nothing is built without setuptools")
    wheel = build_wheel(tmp_path, {"KDAEMON_BUILD": "pure"}, "--no-build-isolation")
    assert wheel.name == f"kdaemon-{kdaemon.__version__}-py3-none-any.whl"
    names = ZipFile(wheel).namelist()
    assert f"kdaemon-{kdaemon.__version__}.data/data/share/man/man1/kdaemon.1" in names
    assert not (tmp_path / "source" / "build").exists(), "the next build would take files from it"
