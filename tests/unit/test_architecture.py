"""ARCHITECTURE.md says what the code is: rooms, files, layers, states and bounds."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from kdaemon.base.counters import StreamCounts
from kdaemon.base.counting import StreamCounters
from kdaemon.daemon import channel, hubs, memory
from kdaemon.door import ndjson, rounds
from kdaemon.http import hub, server, turns
from kdaemon.observe import log_queue
from kdaemon.send import control, kept, relay, trails, waiting
from kdaemon.streams import inquiry, owner, registry
from kdaemon.wire import envelope, line_buffer, lines, rejections

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "kdaemon"
TEXT = (PACKAGE / "ARCHITECTURE.md").read_text()
MIB = 1024 * 1024


def section(title: str) -> str:
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rooms() -> dict[str, str]:
    """What is said of each room, by its name; lines that go on belong to the room above."""
    said: dict[str, str] = {}
    names: list[str] = []
    tree = section("Rooms and walls").partition("kdaemon/\n")[2].partition("```")[0]
    for row in tree.splitlines():
        if row[2:3] != " ":
            names = re.findall(r"([a-z_]+)(?:/|\.py)", row[:26])
        for name in names:
            said[name] = said.get(name, "") + row[26:]
    return said


def test_every_room_is_on_the_page_and_every_room_on_the_page_is_there() -> None:
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    modules = {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    assert set(rooms()) - {"__main__"} == (there | modules) - {"__main__"}


@pytest.mark.parametrize(
    "room",
    ["daemon", "door", "streams", "spool", "engine", "wire", "http", "pace", "route", "settle"],
)
def test_every_file_of_a_room_is_named(room: str) -> None:
    files = {path.name for path in (PACKAGE / room).glob("*.py")} - {"__init__.py"}
    assert files == set(re.findall(r"[a-z0-9_]+\.py", rooms()[room]))


def test_every_file_that_is_named_is_there() -> None:
    for room, text in rooms().items():
        for name in re.findall(r"[a-z0-9_]+\.py", text):
            assert (PACKAGE / room / name).exists(), f"{room}/{name}"
    for path in re.findall(r"`([a-z_]+/[a-z0-9_]+\.py)`", TEXT):
        assert (PACKAGE / path).exists() or (ROOT / path).exists(), path


def test_the_layers_are_those_that_are_held() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    held = next(each["layers"] for each in contracts["contracts"] if each["type"] == "layers")
    said = re.search(r"Imports go down only: `(.*?)`", TEXT)
    assert said is not None

    def layers(texts: list[str]) -> list[set[str]]:
        return [{name.strip() for name in text.split("|")} for text in texts]

    assert layers(said[1].split(" > ")) == layers([each.replace("kdaemon.", "") for each in held])


def enums(path: Path) -> list[list[str]]:
    """The members of each enum of a file, in order."""
    return [
        [
            target.id
            for each in node.body
            if isinstance(each, ast.Assign)
            for target in each.targets
            if isinstance(target, ast.Name) and not target.id.startswith("__")
        ]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Enum" for base in node.bases)
    ]


MACHINES = re.findall(
    r"^\| (.+?) \| ([A-Z_, ]+) \| `(.+?)` \|$", section("State machines"), re.MULTILINE
)


@pytest.mark.parametrize(("machine", "states", "file"), MACHINES)
def test_a_machine_has_the_states_that_are_told(machine: str, states: str, file: str) -> None:
    assert states.split(", ") in enums(PACKAGE / file), machine


def test_there_are_machines_on_the_page() -> None:
    assert len(MACHINES) >= 9


BOUNDS = [
    ("1,024 connections", server.LISTEN_BACKLOG, 1024),
    ("128 stay free", hubs.OPEN_FILES_RESERVE, 128),
    ("a quarter of `memory_bytes_max`, and 16 MiB", memory.BODIES_FRACTION, 4),
    ("64 requests, frames or blocks, 64 KiB, 2 ms", turns.PIECES_MAX, 64),
    ("64 requests, frames or blocks, 64 KiB, 2 ms", turns.BYTES_MAX, 64 * 1024),
    ("64 requests, frames or blocks, 64 KiB, 2 ms", turns.TIME_NS_MAX, 2_000_000),
    ("a connection's requests without an answer | 64 ", hub.ConnectionLimits().pipeline_max, 64),
    ("together 4 ms of a turn", turns.ALL_TIME_NS_MAX, 4_000_000),
    ("a Kinesis body over 1 MiB | 768 KiB", envelope.AT_ONCE_BYTES_MAX, MIB),
    ("a Kinesis body over 1 MiB | 768 KiB", envelope.WEIGHT_MAX, 768 * 1024),
    ("8 for each escape: 16 MiB", lines.ESCAPE_WEIGHT, 8),
    ("8 for each escape: 16 MiB", lines.WEIGHT_MAX, 16 * MIB),
    ("in blocks of 64 KiB, 4 blocks", line_buffer.BLOCK_BYTES, 64 * 1024),
    ("4 blocks or 2,000 lines a turn", ndjson.BLOCKS_A_TURN, 4),
    ("4 blocks or 2,000 lines a turn", ndjson.LINES_A_TURN, 2_000),
    ("10 explained, 1,000 named", rejections.EXPLAINED_MAX, 10),
    ("10 explained, 1,000 named", rejections.NUMBERED_MAX, 1_000),
    ("256 blocks, 8 MiB", rounds.ROUNDS_MAX, 256),
    ("256 blocks, 8 MiB", rounds.UNSETTLED_BYTES_MAX, 8 * MIB),
    ("the memory budget; 2 s", inquiry.WORD_WAIT_S, 2.0),
    ("the memory budget; 2 s as above, once in a run", owner.ASK_WAIT_S, 2.0),
    ("10,000 spellings", registry.SPELLINGS_MAX, 10_000),
    ("half of it for unlisted streams", registry.UNLISTED_PART, 2),
    ("for unlisted streams 64", control.UNLISTED_WAITING_MAX, 64),
    ("64 wait, of one client as many as are left", waiting.PLACES_MAX, 64),
    ("16 looks and 16 reads are made", relay.CALLS_MAX, 16),
    ("an eighth of `memory_bytes_max`, with their answers; 5 s", relay.MEMORY_PART, 8),
    ("an eighth of `memory_bytes_max`, with their answers; 5 s", relay.PATIENCE_S, 5.0),
    ("256, 4 MiB, a second", kept.KEPT_MAX, 256),
    ("256, 4 MiB, a second", kept.KEPT_BYTES_MAX, 4 * MIB),
    ("256, 4 MiB, a second", kept.KEPT_S, 1.0),
    ("8,192 tokens", trails.TRAILS_MAX, 8_192),
    ("a packet of 64 KiB; orders", channel.PACKET_BYTES_MAX, 64 * 1024),
    ("the loop, 64 packets a turn", channel.PACKETS_A_TURN, 64),
    ("5,000 lines, 1 MiB", log_queue.LINES_MAX, 5_000),
    ("5,000 lines, 1 MiB", log_queue.BYTES_MAX, MIB),
    ("the admin listener's 64 connections", hubs.ADMIN_LIMITS.connections_max, 64),
]


@pytest.mark.parametrize(("said", "value", "meant"), BOUNDS)
def test_a_bound_is_what_is_told(said: str, value: float, meant: float) -> None:
    assert said in section("What waits where")
    assert value == meant


def is_a_state(name: str) -> bool:
    """Whether one record more of this count, and nothing else, is a record too many or too few."""
    counters = StreamCounters()
    count = getattr(counters, name)
    if isinstance(count, int):
        setattr(counters, name, 1)
    elif isinstance(count, dict) and count:
        count[next(iter(count))] += 1
    return counters.unaccounted() != 0


def test_a_record_has_the_states_by_which_it_is_counted() -> None:
    diagram = section("Life of a record").partition("stateDiagram-v2\n")[2].partition("```")[0]
    arrows = re.findall(r"^  (\S+) --> (\w+)", diagram, re.MULTILINE)
    said = {state for arrow in arrows for state in arrow} - {"[*]"}
    assert said == {name for name in StreamCounts.__struct_fields__ if is_a_state(name)}


def test_each_decision_has_its_date_and_what_was_rejected() -> None:
    rows = [row for row in section("Decisions").splitlines() if row.startswith("| ")]
    decided = [row for row in rows if not row.startswith("| since |")]
    assert len(decided) >= 141
    for row in decided:
        since, what, rejected = (cell.strip() for cell in row.strip("|").split(" | "))
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", since), row
        assert what.startswith("**"), row
        assert rejected, row
