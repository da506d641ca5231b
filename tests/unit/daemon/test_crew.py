"""What all workers come to, together."""

from typing import Any, cast

from kdaemon.config.load import Sources, load_sources
from kdaemon.daemon.crew import Crew
from kdaemon.daemon.member import Move


def crew_of(text: str) -> Crew:
    sources = Sources(text, "a file", (), None, 4)
    return Crew(load_sources(sources, {}).config, sources, None, lambda: None)


def test_an_end_in_which_one_did_not_end_is_no_good_one() -> None:
    """Nobody knows what it had: it is killed when the supervisor closes."""
    crew = crew_of("workers = 2")
    for member in crew.members:
        member._move(Move.STARTED)
        member._process = cast("Any", object())
    crew.leave(leaves_spool=False)
    ended, stuck = crew.members
    ended._process = None
    ended._move(Move.ENDED)
    assert crew.exit_code == 1
    stuck._process = None
    stuck._move(Move.ENDED)
    assert crew.exit_code == 0
    stuck.exit_code = -9
    assert crew.exit_code == 1
