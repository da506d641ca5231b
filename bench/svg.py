"""Line charts as SVG text: panels under each other over one x axis, and nothing else.

Pure: numbers in, text out, the same text for the same numbers. Self-contained: no script, no font
and nothing to fetch, so that it shows wherever an image shows. Colours follow the viewer's scheme,
light or dark, and the card brings its own ground, so that it is legible on any page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from xml.sax.saxutils import escape

WIDTH = 880  # of the card, in the units of everything below
LEFT, RIGHT = 64, 20  # margins: the numbers of the y axis stand in the left one
TOP = 62  # title and subtitle
TITLE_GAP = 26  # above each panel, for its title
AXIS_GAP = 26  # below the last panel, for the numbers of the x axis
LEGEND_ROW = 20
LEGEND_COLUMN = 195
GRID_MIN = 40  # between lines of the grid
TICKS_MAX = 10  # intervals on the x axis

# Readable on their ground and apart from each other, also to most who see colours differently:
# after Okabe and Ito, darkened for the light card and lightened for the dark one.
_LIGHT = (
    "#0072b2", "#d55e00", "#008a63", "#b0508a", "#8a6d00", "#3f8fd0", "#6b4fa0", "#5f6b2d",
)  # fmt: skip
_DARK = (
    "#58a6ff", "#ff9d5c", "#3fc99a", "#e88fc4", "#e0c04a", "#9fd0ff", "#b79cf0", "#b8c76a",
)  # fmt: skip

_STYLE = """<style>
text{{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#424a53}}
.h{{font-size:17px;font-weight:600;fill:#1f2328}}
.p{{font-weight:600;fill:#1f2328}}
.e{{text-anchor:end}}
.m{{text-anchor:middle}}
.ground{{fill:#ffffff;stroke:#d0d7de}}
.grid{{stroke:#e4e8ec;stroke-width:1}}
.mark{{stroke:#6e7781;stroke-width:1;stroke-dasharray:2 3}}
.l{{fill:none;stroke-width:1.4;stroke-linejoin:round}}
.thick{{stroke-width:2.8}}
.dashed{{stroke-dasharray:6 4}}
.ink{{stroke:#1f2328}}
{light}
@media (prefers-color-scheme:dark){{
text{{fill:#b1bac4}}.h,.p{{fill:#f0f6fc}}
.ground{{fill:#0d1117;stroke:#3d444d}}.grid{{stroke:#262c34}}.mark{{stroke:#9198a1}}
.ink{{stroke:#f0f6fc}}
{dark}
}}
</style>"""


@dataclass(frozen=True, slots=True)
class Line:
    """`points`: (x, y) with x ascending. `colour`: an index into eight; None is the ink of the
    text. A line without a name is not in the legend.
    """

    points: Sequence[tuple[float, float]]
    name: str = ""
    colour: int | None = None
    is_thick: bool = False
    is_dashed: bool = False

    @property
    def classes(self) -> str:
        colour = "ink" if self.colour is None else f"c{self.colour % len(_LIGHT)}"
        return " ".join(["l", colour, *["thick"] * self.is_thick, *["dashed"] * self.is_dashed])


@dataclass(frozen=True, slots=True)
class Panel:
    """One y axis from 0 to a little over the highest point. `height`: of the plot."""

    title: str
    lines: Sequence[Line]
    height: int = 200


@dataclass(frozen=True, slots=True)
class Chart:
    """`marks`: (x, text) of what happened then; a dotted line through all panels."""

    title: str
    subtitle: str
    x_title: str
    panels: Sequence[Panel]
    marks: Sequence[tuple[float, str]] = ()

    def svg(self) -> str:
        """The whole file. ValueError if there is nothing to draw."""
        xs = [x for panel in self.panels for line in panel.lines for x, _ in line.points]
        if not xs:
            raise ValueError("a chart needs at least one line with a point")
        x_max = max(*xs, 0.0) or 1.0
        body: list[str] = []
        top = TOP
        for panel in self.panels:
            top += TITLE_GAP
            body += _panel(panel, top, x_max)
            top += panel.height
        first_top = TOP + TITLE_GAP
        body += [_mark(x, text, x_max, first_top, top) for x, text in self.marks]
        x_ticks = [at for at in ticks(x_max) if at <= x_max]
        body += [_text(_x(at, x_max), top + 18, f"{at:g}", "m") for at in x_ticks]
        body.append(_text(WIDTH - RIGHT, top + 36, self.x_title, "e"))
        rows, height = _legend(self.panels, top + AXIS_GAP + 28)
        return "\n".join([*self._head(height + 10), *body, *rows, "</svg>", ""])

    def _head(self, height: int) -> list[str]:
        light, dark = (
            "".join(f".c{index}{{stroke:{colour}}}" for index, colour in enumerate(colours))
            for colours in (_LIGHT, _DARK)
        )
        size = f'width="{WIDTH}" height="{height}"'
        ground = f'width="{WIDTH - 1}" height="{height - 1}" rx="8"'
        return [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size}',
            'role="img" aria-labelledby="t d">',
            f'<title id="t">{escape(self.title)}</title>',
            f'<desc id="d">{escape(self.subtitle)}</desc>',
            _STYLE.format(light=light, dark=dark),
            f'<rect class="ground" x="0.5" y="0.5" {ground}/>',
            _text(20, 30, self.title, "h"),
            _text(20, 51, self.subtitle),
        ]


def ticks(highest: float, intervals_max: int = TICKS_MAX) -> list[float]:
    """Round numbers from 0 up to at least `highest`: steps of 1, 2 or 5 times a power of ten."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** floor(log10(highest / intervals_max))
    steps_ = (times * power for times in (1, 2, 5, 10))
    step = next(step for step in steps_ if step * intervals_max >= highest)
    return [step * index for index in range(ceil(highest / step - 1e-9) + 1)]


def _panel(panel: Panel, top: int, x_max: float) -> list[str]:
    highest = max((y for line in panel.lines for _, y in line.points), default=0.0)
    y_ticks = ticks(highest, max(1, panel.height // GRID_MIN))
    y_max = y_ticks[-1]
    bottom = top + panel.height

    def y_of(value: float) -> float:
        return bottom - panel.height * value / y_max

    parts = [_text(LEFT, top - 8, panel.title, "p")]
    for at in y_ticks:
        y = _number(y_of(at))
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, y_of(at) + 4, f"{at:,g}", "e"))
    for line in panel.lines:
        points = " ".join(f"{_number(_x(x, x_max))},{_number(y_of(y))}" for x, y in line.points)
        parts.append(f'<polyline class="{line.classes}" points="{points}"/>')
    return parts


def _mark(x: float, text: str, x_max: float, top: int, bottom: int) -> str:
    at = _number(_x(x, x_max))
    label = _text(_x(x, x_max) + 5, bottom - 7, text)
    return f'<path class="mark" d="M{at} {top}V{bottom}"/>{label}'


def _legend(panels: Sequence[Panel], top: int) -> tuple[list[str], int]:
    """Its parts, and where it ends."""
    named = [line for panel in panels for line in panel.lines if line.name]
    columns = (WIDTH - LEFT - RIGHT) // LEGEND_COLUMN
    parts: list[str] = []
    for index, line in enumerate(named):
        x = LEFT + index % columns * LEGEND_COLUMN
        y = top + index // columns * LEGEND_ROW
        parts.append(f'<path class="{line.classes}" d="M{x} {y - 4}h24"/>')
        parts.append(_text(x + 31, y, line.name))
    return parts, top + ceil(len(named) / columns) * LEGEND_ROW - LEGEND_ROW // 2


def _x(value: float, x_max: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / x_max


def _text(x: float, y: float, text: str, classes: str = "") -> str:
    style = f' class="{classes}"' if classes else ""
    return f'<text x="{_number(x)}" y="{_number(y)}"{style}>{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """Each value's mean with the `width` - 1 before it (fewer at the start)."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = ((max(0, end - width), end) for end in range(1, len(values) + 1))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def steps(levels: Sequence[tuple[float, float]], until: float) -> list[tuple[float, float]]:
    """The points of a level that changes at once. `levels`: (from x on, y), x ascending."""
    points: list[tuple[float, float]] = []
    for (start, level), (end, _) in pairwise([*levels, (until, 0.0)]):
        points += [(start, level), (end, level)]
    return points
