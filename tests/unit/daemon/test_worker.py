"""What a worker is told to be."""

import json
from dataclasses import asdict

import pytest

import kdaemon
from kdaemon.base.errors import WorkerError
from kdaemon.config.load import Sources
from kdaemon.daemon.part import Former
from kdaemon.daemon.worker import Assignment

ASSIGNMENT = Assignment(
    number=1,
    slot=0,
    slots=2,
    worker_count=2,
    directory="/spool/worker-1",
    is_heir=False,
    sources=Sources(None, "k.toml", (("workers", "2"),), None, 2),
    places={"default": ("http://127.0.0.1:1", "sandbox")},
    former=Former(pid=1, has_spool=True, has_to_wait=True),
)


def test_an_assignment_arrives_as_it_was_sent() -> None:
    assert Assignment.decode(ASSIGNMENT.encode()) == ASSIGNMENT
    assert ASSIGNMENT.version == kdaemon.__version__


@pytest.mark.parametrize("change", [{"colour": "red"}, {"slot": None}, {"sources": {}}])
def test_what_another_version_means_is_not_guessed(change: dict[str, object]) -> None:
    """The program was replaced while a supervisor of the old version runs. None: it is not told."""
    told = {**asdict(ASSIGNMENT), "version": "0.0.9", **change}
    told = {key: value for key, value in told.items() if value is not None}
    with pytest.raises(WorkerError, match=r"0\.0\.9.*restart"):
        Assignment.decode(json.dumps(told).encode())
