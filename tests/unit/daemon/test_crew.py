"""What all workers come to, together."""

from typing import Any

from kdaemon.config.load import Sources, load_sources
from kdaemon.daemon.crew import Crew


def crew_of(text: str) -> Crew:
    sources = Sources(text, "a file", (), None, 4)
    return Crew(load_sources(sources, {}).config, sources, None, lambda: None)


async def test_an_end_in_which_one_did_not_end_is_no_good_one(processes: list[Any]) -> None:
    """Nobody knows what it had: it is killed when the supervisor closes."""
    crew = crew_of("workers = 2")
    for member in crew.members:
        member.begin()
    crew.leave(leaves_spool=False)
    ended, stuck = processes
    ended.end(0)
    assert crew.exit_code == 1
    stuck.end(0)
    assert crew.exit_code == 0
    crew.members[1].exit_code = -9
    assert crew.exit_code == 1
