"""The configuration in force on the admin listener: the rows of `kdaemon config --effective`."""

import json
from typing import Any

import pytest

from kdaemon.config.effective import effective
from kdaemon.config.keys import dotted
from kdaemon.config.load import Sources, load_sources
from kdaemon.observe import config_page
from kdaemon.observe.config_page import ROWS_A_STEP, ROWS_MAX, config_steps
from tests.unit.observe.test_admin import Place
from tests.unit.observe.whole import whole

TEXT = """
proxy_url = "http://user:wonderful-word@proxy:3128"
role_arn = "arn:aws:iam::123456789012:role/writer"
role_external_id = "a-word-of-ours"
[default]
linger_ms = 7
[streams."a.b"]
in_flight_max = 5
"""


def told(text: str | None, generation: int = 1) -> Any:
    loaded = None
    if text is not None:
        flags = [("log.level", "debug")]
        environ = {"KDAEMON_DRAIN_DEADLINE_MS": "9000"}
        loaded = load_sources(Sources(text, "k.toml", flags), environ)
    return json.loads(whole(config_steps(loaded, generation)).body)


def test_each_value_is_told_with_who_gave_it_and_without_secrets() -> None:
    page = told(TEXT, 3)
    assert (page["generation"], page["left_out"]) == (3, 0)
    rows = {row["key"]: row for row in page["settings"]}
    assert rows["proxy_url"]["value"] == "http://***@proxy:3128"
    assert rows["role_external_id"]["value"] == "***"
    assert rows["drain.deadline_ms"] == {
        "key": "drain.deadline_ms",
        "value": 9000,
        "origin": "environment KDAEMON_DRAIN_DEADLINE_MS",
        "is_given": True,
    }
    assert rows["log.level"]["origin"] == "flag --set log.level"
    calls, linger = rows['streams."a.b".in_flight_max'], rows['streams."a.b".linger_ms']
    assert (calls["value"], calls["origin"], calls["is_given"]) == (5, "k.toml", True)
    assert (linger["value"], linger["origin"], linger["is_given"]) == (
        7,
        "k.toml, by default.linger_ms",
        False,
    )
    assert rows["listen.admin"]["origin"] == "default"
    assert not rows["listen.admin"]["is_given"]


@pytest.mark.parametrize("url", ["u:wonderful-word@proxy:3128", "wonderful-word@proxy:3128"])
def test_a_proxy_without_a_scheme_is_told_without_who_calls(url: str) -> None:
    rows = {row["key"]: row["value"] for row in told(f'proxy_url = "{url}"\n')["settings"]}
    assert rows["proxy_url"] == "***@proxy:3128"


def test_it_has_the_rows_of_the_command() -> None:
    loaded = load_sources(Sources(TEXT), {})
    rows = json.loads(whole(config_steps(loaded, 1)).body)["settings"]
    assert [(row["key"], row["value"]) for row in rows] == [
        (dotted(each.path), each.shown) for each in effective(loaded, {})
    ]


def test_it_is_bounded_and_made_in_steps() -> None:
    loaded = load_sources(Sources("".join(f"[streams.s{i}]\n" for i in range(100))), {})
    steps, count = config_steps(loaded, 1), 0
    try:
        while True:
            next(steps)
            count += 1
    except StopIteration as end:
        page = json.loads(end.value.body)
    assert len(page["settings"]) == ROWS_MAX
    assert ROWS_MAX + page["left_out"] == len(list(effective(loaded, {})))
    assert count >= len(list(effective(loaded, {}))) // ROWS_A_STEP
    assert len(whole(config_steps(loaded, 1)).body) < 400_000


async def test_the_listener_tells_what_the_last_reload_took() -> None:
    place = Place()
    await place.open()
    try:
        assert json.loads((await place.ask("GET", "/configz/effective")).body)["settings"] == []
        place.reloads.loaded = load_sources(Sources(TEXT), {})
        place.clock.ns += 2_000_000_000
        answer = await place.ask("GET", "/configz/effective")
        assert answer.headers["content-type"] == "application/json"
        assert len(json.loads(answer.body)["settings"]) > 100
        assert b"wonderful" not in answer.body
    finally:
        place.admin.close()
        await place.server.aclose()


def test_the_bound_leaves_room_for_what_a_page_is_for() -> None:
    """All of the top, and the tables of fifty streams."""
    text = "".join(f"[streams.s{i}]\n" for i in range(50))
    assert len(list(effective(load_sources(Sources(text), {}), {}))) <= config_page.ROWS_MAX
