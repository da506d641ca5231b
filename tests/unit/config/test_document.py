"""The example and the documents' tables are what the settings say."""

import re
import tomllib

import pytest

from kdaemon.config import Config
from kdaemon.config.about import About, Mark
from kdaemon.config.document import COLUMNS, example, marks, tables
from kdaemon.config.keys import KEYS, NAMED_TABLES, STREAM_KEYS, UPSTREAM_KEYS
from kdaemon.config.load import load_config

ABOUTS = {".".join(path): key.about for path, key in KEYS.items()} | {
    f"{table}.NAME.{name}": key.about
    for table, keys in NAMED_TABLES.items()
    for name, key in keys.items()
}


def test_the_example_loads_to_the_defaults_and_has_each_setting_once() -> None:
    text = example()
    assert load_config(text=text) == Config()
    document = tomllib.loads(text)
    tops = {(name,) for name, value in document.items() if not isinstance(value, dict)}
    inner = {(table, key) for table, of in document.items() if (table,) not in tops for key in of}
    assert tops | inner == set(KEYS)


def test_the_example_fits_in_a_window_but_for_values() -> None:
    long = [line for line in example().splitlines() if len(line) > COLUMNS]
    assert [line for line in long if line.startswith("#")] == []


def rows(table: str) -> list[list[str]]:
    section = tables().split(f"## {table}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("Top of the file", ["`service`", '`"aws"`', '"aws" or "yandex"', "restart"]),
        ("`[listen]`", ["`connections_max`", "`10000`", "1 to 1,000,000", "live"]),
        ("`[spool]`", ["`bytes_max`", "1 GiB", "bytes, 1 MiB to 1 TiB", "live"]),
        ("`[default]`", ["`upstream`", '`"default"`', "a name in quotes", "restart"]),
        ("`[streams.NAME]`", ["`upstream`", "that of `[default]`", "a name in quotes", "live"]),
    ],
)
def test_a_table_has_default_range_and_mark_of_each_setting(table: str, row: list[str]) -> None:
    assert row in [found[:4] for found in rows(table)]


def test_each_table_has_each_of_its_settings() -> None:
    for table in {path[0] for path in KEYS if len(path) == 2}:
        names = [f"`{path[1]}`" for path in KEYS if path[0] == table]
        assert [found[0] for found in rows(f"`[{table}]`")] == names
    of_upstream = [k for k in UPSTREAM_KEYS if (k,) not in KEYS]
    assert [found[0] for found in rows("`[upstreams.NAME]`")] == [f"`{k}`" for k in of_upstream]
    own = {"arn", "upstream", "upstream_name", "socket"}
    assert {found[0].strip("`") for found in rows("`[streams.NAME]`")} == own <= set(STREAM_KEYS)
    assert all(len(found) == 5 for found in rows("`[default]`"))


def test_the_marks_of_a_reload_name_each_setting_at_its_place() -> None:
    written = marks()
    for path in KEYS:
        place = f"`[{path[0]}]`" if len(path) == 2 else "top of the file"
        mine = [row for row in written.splitlines() if row.startswith(f"| {place} |")]
        assert len([row for row in mine if f"`{path[-1]}`" in row]) == 1, path
    assert "larger: live; smaller: restart" in written


@pytest.mark.parametrize(("name", "about"), ABOUTS.items())
def test_what_is_said_of_a_setting_is_a_sentence(name: str, about: About) -> None:
    assert about.mark in Mark
    for text in filter(None, (about.meaning, about.more.split("\n")[0])):
        assert text.endswith("."), name
        assert "  " not in text, name
        assert "|" not in about.meaning, "it would end a cell"
