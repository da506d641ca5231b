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


async def test_who_was_never_ready_is_not_asked_though_it_leaves(processes: list[Any]) -> None:
    """It has nothing to show yet, and would say that kdaemon has a defect."""
    crew = crew_of("workers = 2")
    first, second = crew.members
    for member in crew.members:
        member.begin()
    first.on_told({"ready": True})
    crew.leave(leaves_spool=False)
    assert (first.is_askable, second.is_askable) == (True, False)
    first.on_told({"ready": True})  # the word was on its way
    for process in processes:
        process.end(0)
    assert not first.is_askable


async def test_who_does_not_answer_says_why(processes: list[Any]) -> None:
    crew = crew_of("workers = 2")
    for member in crew.members:
        member.begin()
        member.on_told({"ready": True})
    answers = await crew.ask("snapshot")
    assert [each.why_not for each in answers.values()] == ["it is gone"] * 2
    crew.leave(leaves_spool=False)
    for process in processes:
        process.end(0)
    assert await crew.ask("snapshot") == {}
