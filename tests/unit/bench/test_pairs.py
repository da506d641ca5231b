"""Two versions in turn: the ratio is that of a round, whatever the machine did between rounds."""

from bench.pairs import TITLE, Pairs


def pairs() -> Pairs:
    made = Pairs({"a": "PutRecords"}, 0.1)
    for speed in (1.0, 0.5, 2.0):  # of the machine
        made.add("a", 100_000 * speed, 120_000 * speed)
    made.add("a", 100_000, 90_000)
    made.lone_ms.append((0.5, 0.4))
    return made


def test_the_median_is_that_of_the_rounds_own_ratios() -> None:
    _, row, lone = pairs().rows()
    assert row == ["PutRecords", "100,000", "105,000", "1.20", "0.90", "1.20", "4"]
    assert lone[1:] == ["0.50", "0.40", "0.80", "0.80", "0.80", "1"]
    assert pairs().last("a") == "PutRecords: 100,000, 90,000: 0.90"


def test_the_table_is_a_section_whose_rows_are_as_wide_as_its_heading() -> None:
    title, _, how, _, *table = pairs().markdown().splitlines()
    assert title == TITLE
    assert "load average 0.1" in how
    assert {line.count("|") for line in table} == {8}
    assert len(table) == 4
