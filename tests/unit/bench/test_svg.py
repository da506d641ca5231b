"""The chart writer of the bench: well-formed, self-contained, and true to its numbers."""

import re
from xml.etree import ElementTree as ET

import pytest

from bench.svg import LEFT, RIGHT, WIDTH, Chart, Line, Panel, moving_mean, steps, ticks

SVG = "{http://www.w3.org/2000/svg}"


def chart(*lines: Line, title: str = "Rates", marks: tuple[tuple[float, str], ...] = ()) -> Chart:
    return Chart(title, "of a test", "seconds", [Panel("records/s", lines, height=100)], marks)


def points_of(root: ET.Element) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (p.split(",") for p in line.attrib["points"].split())]
        for line in root.iter(f"{SVG}polyline")
    ]


def test_it_is_one_well_formed_file_that_fetches_nothing() -> None:
    text = chart(Line([(0, 1), (10, 5)], name="a < b & c"), title="<Rates> & more").svg()
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert root.findtext(f"{SVG}title") == "<Rates> & more"
    assert "a < b & c" in [element.text for element in root.iter(f"{SVG}text")]
    assert not re.search(r"href|url\(|<script|@import", text)


def test_points_stand_where_their_numbers_say() -> None:
    root = ET.fromstring(chart(Line([(0, 0), (5, 50), (10, 100)])).svg())
    ((first, middle, last),) = points_of(root)
    assert first[0] == LEFT
    assert last[0] == WIDTH - RIGHT
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2)
    assert first[1] - last[1] == 100, "the panel's height, from 0 to the top of its grid"
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2)


def test_every_colour_is_said_for_light_and_for_dark() -> None:
    text = chart(*(Line([(0, 1), (1, index)], colour=index) for index in range(8))).svg()
    light, dark = text.split("@media (prefers-color-scheme:dark)")
    for index in range(8):
        of_light, of_dark = (
            re.findall(rf"\.c{index}{{stroke:(#\w+)}}", part) for part in (light, dark)
        )
        assert len(of_light) == len(of_dark) == 1
        assert of_light != of_dark


def test_a_line_with_a_name_is_in_the_legend_and_one_without_is_not() -> None:
    root = ET.fromstring(
        chart(Line([(0, 1), (1, 1)], name="seen", is_dashed=True), Line([(0, 2), (1, 2)])).svg()
    )
    dashed = [path for path in root.iter(f"{SVG}path") if "dashed" in path.attrib["class"]]
    assert len(dashed) == 1
    assert "seen" in [element.text for element in root.iter(f"{SVG}text")]


def test_a_mark_stands_at_its_time() -> None:
    root = ET.fromstring(chart(Line([(0, 1), (10, 1)]), marks=((5, "joins"),)).svg())
    (mark,) = [path for path in root.iter(f"{SVG}path") if path.attrib["class"] == "mark"]
    assert mark.attrib["d"].startswith(f"M{(LEFT + WIDTH - RIGHT) // 2} ")


def test_nothing_to_draw_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="at least one line"):
        chart(Line([])).svg()


@pytest.mark.parametrize("highest", [0, 0.03, 1, 7, 99.5, 100, 101, 1_000, 123_456])
@pytest.mark.parametrize("intervals_max", [1, 3, 5, 10])
def test_ticks_are_round_few_and_cover_the_highest(highest: float, intervals_max: int) -> None:
    found = ticks(highest, intervals_max)
    assert found[0] == 0
    assert found[-1] >= highest * (1 - 1e-9)
    assert 2 <= len(found) <= intervals_max + 1
    assert f"{found[1]:e}"[0] in "125"


def test_a_moving_mean_looks_back_and_never_beyond_the_start() -> None:
    assert moving_mean([3, 6, 0, 3], 3) == [3, 4.5, 3, 3]


def test_a_level_that_changes_is_drawn_as_steps() -> None:
    assert steps([(0, 5), (10, 7)], 12) == [(0, 5), (10, 5), (10, 7), (12, 7)]
