"""What a new configuration changes, and what of it needs a restart."""

import pytest

from kdaemon.config.about import Mark
from kdaemon.config.changes import find_changes
from kdaemon.config.clash import Path
from kdaemon.config.keys import KEYS, NAMED_TABLES
from kdaemon.config.load import load_config

ARN = "arn:aws:kinesis:eu-west-1:111111111111:stream/a"


def changes(before: str, after: str) -> tuple[set[str], set[str]]:
    """Keys that change live, and those that need a restart."""
    found = find_changes(load_config(text=before), load_config(text=after))
    return set(found.live), set(found.restart)


def test_a_mark_is_of_a_key_that_exists() -> None:
    from kdaemon.config import changes as table

    marked: set[Path] = {(key,) for key in table.TOP}
    marked |= {(name, key) for name, keys in table.TABLES.items() for key in keys}
    assert marked == set(KEYS)
    assert set(table.OF_STREAMS) == set(NAMED_TABLES["streams"])
    assert set(table.OF_UPSTREAMS) == set(NAMED_TABLES["upstreams"])


def test_nothing_changes_where_the_text_says_the_same() -> None:
    text = "[streams.orders]\nlinger_ms = 5\n"
    found = find_changes(load_config(text=text), load_config(text="# as before\n" + text))
    assert not found


@pytest.mark.parametrize(
    ("before", "after", "live", "restart"),
    [
        ("[streams.a]", "accept_unlisted = false\n[streams.a]", {"accept_unlisted"}, set()),
        ("", "[log]\nlevel = 'debug'", {"log.level"}, set()),
        ("", "[listen]\nhttp = ''\nunix = '/x/y'", set(), {"listen.http", "listen.unix"}),
        ("", "memory_bytes_max = 536870912", {"memory_bytes_max"}, set()),
        ("", "memory_bytes_max = 134217728", set(), {"memory_bytes_max"}),
        ("", "[streams.a]", {"streams.a"}, set()),
        ('[streams."a.b"]', "", {'streams."a.b"'}, set()),
        ("[streams.a]", "[streams.a]\nlinger_ms = 7", {"streams.a.linger_ms"}, set()),
        (
            "[streams.a]",
            "[streams.a]\nordering = 'partition_key'",
            set(),
            {"streams.a.ordering"},
        ),
        # Told once, not of each stream that inherits it.
        ("[streams.a]", "[streams.a]\n[default]\nlinger_ms = 7", {"default.linger_ms"}, set()),
        (
            "[streams.a]\nlinger_ms = 3",
            "[streams.a]\nlinger_ms = 4\n[default]\nlinger_ms = 7",
            {"default.linger_ms", "streams.a.linger_ms"},
            set(),
        ),
        # What waits by one way would be overtaken by what comes by the other.
        ("[streams.a]", "[streams.a]\nacknowledge = 'accepted'", {"streams.a.acknowledge"}, set()),
        (
            "[streams.a]\nordering = 'partition_key'",
            "[streams.a]\nordering = 'partition_key'\nacknowledge = 'accepted'",
            set(),
            {"streams.a.acknowledge"},
        ),
        # Another stream of the same name: one goes, one comes.
        (
            "[streams.a]\nupstream_name = 'x'",
            "[streams.a]\nupstream_name = 'y'\nordering = 'partition_key'",
            {"streams.a.upstream_name", "streams.a.ordering"},
            set(),
        ),
        (
            "",
            "[streams.a]\nlines = 'raw'\nsocket = '/run/a.sock'",
            set(),
            {"streams.a.socket"},
        ),
        (
            "[streams.a]\nlines = 'raw'\nsocket = '/run/a.sock'",
            f"[streams.a]\nlines = 'raw'\nsocket = '/run/a.sock'\narn = '{ARN}'",
            set(),
            {"streams.a.arn"},
        ),
        ("region = 'eu-west-1'", "region = 'eu-west-2'", set(), {"region"}),
        (
            "",
            "[upstreams.us]\naccount_id = '111111111111'\nregion = 'us-east-1'",
            {"upstreams.us"},
            set(),
        ),
        (
            "[upstreams.us]\naccount_id = '111111111111'\nregion = 'us-east-1'",
            "",
            {"upstreams.us"},
            set(),
        ),
        (
            "[upstreams.us]\naccount_id = '111111111111'\nregion = 'us-east-1'",
            (
                "[upstreams.us]\naccount_id = '111111111111'\nregion = 'us-east-2'\n"
                "call_timeout_ms = 9000"
            ),
            {"upstreams.us.call_timeout_ms"},
            {"upstreams.us.region"},
        ),
        (
            "",
            "[upstreams.ya]\nservice = 'yandex'\nendpoint_url = 'https://y.example/r/f/db'",
            set(),
            {"upstreams.ya.service"},
        ),
    ],
)
def test_what_changes_is_named(before: str, after: str, live: set[str], restart: set[str]) -> None:
    assert changes(before, after) == (live, restart)


def test_the_marks_are_words_for_people() -> None:
    assert {mark.value.partition(",")[0].split()[0] for mark in Mark} == {"live", "restart"}
