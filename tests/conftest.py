"""For all tests: neither the machine's speed nor who started this process decides any of them. And
which of them share a process of a run.
"""

import gc
import signal
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import kdaemon
from tests.kit import tools
from tests.kit.certificates import Authority, Files
from tests.kit.depth import EXAMPLES

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

TOGETHER = "tests/contract/"
"""One process has all of its files: to start the services that others wrote is dear, and each
process would."""


def pytest_configure(config: pytest.Config) -> None:
    """A shell that starts pytest in the background has it ignore SIGINT; its children would too.
    Hypothesis has limits of time of its own, for an example and for making one.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile(
        "unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    for name, count in EXAMPLES.items():
        settings.register_profile(name, settings.get_profile("unhurried"), max_examples=count)
    settings.load_profile(config.getoption("--hypothesis-profile") or "patient")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: who cannot run here starts nothing."""
    for mark in item.iter_markers():
        if mark.name == "pure" and kdaemon.build() == "compiled":
            pytest.skip(f"the pure build alone: {mark.args[0]}")
        obstacle = tools.why_not(mark.name)
        if obstacle is not None:
            pytest.skip(obstacle)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Of localhost, by an authority of the tests' own."""
    return Authority(tmp_path_factory.mktemp("certificate")).issue()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The collector need not look at the tests themselves: neither while they are collected, which
    was half of what that cost, nor time and again later. Nor once for what they left in cycles,
    some 15 MB: that was a tenth of it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(
    config: pytest.Config, log: "Producer"
) -> "LoadFileScheduling | None":
    """For `--dist loadfile`: a file's tests stay together, and those of TOGETHER."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            scope: str = super()._split_scope(nodeid)
            return TOGETHER if scope.startswith(TOGETHER) else scope

    return Scheduling(config, log)
