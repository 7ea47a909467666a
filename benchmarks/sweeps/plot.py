"""Plots as SVG: panels side by side over one legend, points with their least and most, in colours for light pages and dark.

The same figures give the same bytes. The text is real text, and the colours follow the reader's `prefers-color-scheme`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_PANEL_WIDTH, _PLOT_HEIGHT = 316, 200
_LEFT, _RIGHT, _TOP = 58, 14, 62
_LEGEND_LINE = 18
_LABEL_CHARACTERS_LEVEL = 8  # longer names of points stand slanted
# A scale from nothing shows the least of values that are further apart than this as nothing.
_LINEAR_RATIO_MAX = 12.0
# Told apart by people who see colours differently, with the shapes of `_mark`; the second of each pair is for a dark page.
_COLOURS = (
    ("#0a66c2", "#6cb2ff"),
    ("#c2500a", "#ffa05c"),
    ("#1a7f37", "#5fd07a"),
    ("#8a3ab9", "#d29bff"),
    ("#9a6700", "#e0b84c"),
    ("#5b6470", "#aab4c0"),
)
CURVES_MAX = len(_COLOURS)


@dataclass(frozen=True, slots=True)
class Dot:
    """A median at `x`, with the least and the most beside it."""

    x: float
    least: float
    median: float
    most: float


@dataclass(frozen=True, slots=True)
class Curve:
    name: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """`title` has the unit of what is shown. `labels` names the places 0, 1, 2 … of an axis that has no numbers; dots of
    several curves then stand beside each other. `joined` draws lines from dot to dot."""

    title: str
    curves: tuple[Curve, ...]
    labels: tuple[str, ...] = ()
    joined: bool = True


def svg(title: str, axis: str, panels: Sequence[Panel]) -> str:
    """The picture; `axis` is what all panels have below. Raises ValueError for more curves than there are colours."""
    names = [curve.name for curve in panels[0].curves]
    if len(names) > CURVES_MAX:
        raise ValueError(f"{len(names)} curves can't be told apart; {CURVES_MAX} can")
    longest = max((len(label) for panel in panels for label in panel.labels), default=0)
    below = 44 + (longest * 5 if longest > _LABEL_CHARACTERS_LEVEL else 0)
    width, legend_top = _PANEL_WIDTH * len(panels), _TOP + _PLOT_HEIGHT + below
    height = legend_top + _LEGEND_LINE * -(-len(names) // 3) + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="11"><title>{escape(title)}</title>{_style()}',
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text x="12" y="20" class="ink" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * _PANEL_WIDTH} 0)">{_panel(panel, axis, below)}</g>')
    for index, name in enumerate(names):
        x, y = 20 + index % 3 * (width // 3), legend_top + _LEGEND_LINE * (index // 3) + 6
        parts.append(f'<g class="c{index}">{_mark(index, x, y)}</g>')
        parts.append(f'<text x="{x + 12}" y="{y + 4}" class="ink">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _style() -> str:
    def rules(ink: str, faint: str, page: str, which: int) -> str:
        colours = "".join(
            f".c{index}{{fill:{pair[which]};stroke:{pair[which]}}}" for index, pair in enumerate(_COLOURS)
        )
        return f".page{{fill:{page}}}.ink{{fill:{ink}}}.grid{{stroke:{faint}}}{colours}"

    dark = rules("#e6edf3", "#30363d", "#0d1117", 1)
    light = rules("#1f2328", "#d8dee4", "#ffffff", 0)
    return f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}.line{{fill:none;stroke-width:1.5}}</style>"


@dataclass(frozen=True, slots=True)
class Scale:
    """Places values between `low` and `high` on so many points of the picture."""

    low: float
    high: float
    length: float
    logarithmic: bool

    def at(self, value: float) -> float:
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low) * self.length
        return (value - self.low) / (self.high - self.low) * self.length

    def ticks(self) -> list[float]:
        """Round numbers, some four to nine."""
        if not self.logarithmic:
            step = _step((self.high - self.low) / 4)
            return [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if self.high / self.low < 1000 else (1,)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        return [tick for tick in ticks if self.low <= tick * 1.0001 and tick <= self.high * 1.0001]


def _step(rough: float) -> float:
    """The largest round number that is no larger."""
    size = 10.0 ** math.floor(math.log10(rough))
    return max(size * factor for factor in (1, 2, 5) if size * factor <= rough)


def scale_of(values: Sequence[float], length: float) -> Scale:
    """From nothing up where that shows all values, else logarithmic. Raises ValueError without a value."""
    positive = [value for value in values if value > 0]
    least, most = min(positive, default=1.0), max(positive, default=1.0)
    if most / least <= _LINEAR_RATIO_MAX:
        return Scale(0.0, most * 1.08, length, logarithmic=False)
    return Scale(least / 1.15, most * 1.15, length, logarithmic=True)


def _panel(panel: Panel, axis: str, below: int) -> str:
    width = _PANEL_WIDTH - _LEFT - _RIGHT
    dots = [dot for curve in panel.curves for dot in curve.dots]
    across = (
        Scale(-0.5, len(panel.labels) - 0.5, width, logarithmic=False)
        if panel.labels
        else scale_of([dot.x for dot in dots], width)
    )
    up = scale_of([value for dot in dots for value in (dot.least, dot.median, dot.most)], _PLOT_HEIGHT)
    bottom = _TOP + _PLOT_HEIGHT
    parts = [f'<text x="{_LEFT}" y="{_TOP - 12}" class="ink">{escape(panel.title)}</text>']
    for tick in up.ticks():
        y = bottom - up.at(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{width}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="ink" text-anchor="end">{_number(tick)}</text>')
    named = [(float(place), label) for place, label in enumerate(panel.labels)]
    places = named or [(tick, _number(tick)) for tick in across.ticks()]
    slanted = any(len(label) > _LABEL_CHARACTERS_LEVEL for label in panel.labels)
    for place, label in places:
        parts.append(_below(_LEFT + across.at(place), bottom, label, slanted=slanted))
    middle = _LEFT + width / 2
    parts.append(f'<text x="{middle}" y="{bottom + below - 10}" class="ink" text-anchor="middle">{escape(axis)}</text>')
    for index, curve in enumerate(panel.curves):
        aside = (index - (len(panel.curves) - 1) / 2) * 8 if panel.labels else 0.0
        parts.append(f'<g class="c{index}">{_curve(index, curve, across, up, aside, joined=panel.joined)}</g>')
    return "".join(parts)


def _below(x: float, bottom: float, label: str, *, slanted: bool) -> str:
    tick = f'<path class="grid" d="M{x:.1f} {bottom}v4"/>'
    if slanted:
        place = f'transform="translate({x + 3:.1f} {bottom + 13}) rotate(-38)" text-anchor="end"'
    else:
        place = f'x="{x:.1f}" y="{bottom + 16}" text-anchor="middle"'
    return f'{tick}<text {place} class="ink">{escape(label)}</text>'


def _curve(index: int, curve: Curve, across: Scale, up: Scale, aside: float, *, joined: bool) -> str:
    bottom = _TOP + _PLOT_HEIGHT

    def y(value: float) -> float:
        return bottom - up.at(max(value, up.low))

    xs = [_LEFT + across.at(dot.x) + aside for dot in curve.dots]
    parts = []
    if joined and len(xs) > 1:
        path = "L".join(f"{x:.1f} {y(dot.median):.1f}" for x, dot in zip(xs, curve.dots, strict=True))
        parts.append(f'<path class="line" d="M{path}"/>')
    for x, dot in zip(xs, curve.dots, strict=True):
        parts.append(f'<path d="M{x:.1f} {y(dot.least):.1f}V{y(dot.most):.1f}"/>{_mark(index, x, y(dot.median))}')
    return "".join(parts)


def _mark(index: int, x: float, y: float) -> str:
    x, y = round(x, 1), round(y, 1)
    shape = index % 4
    if shape == 0:
        return f'<circle cx="{x}" cy="{y}" r="3.2"/>'
    if shape == 1:
        return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'
    outline = "l4 7h-8z" if shape == 2 else "l4 4 -4 4 -4 -4z"
    return f'<path d="M{x} {y - 4:.1f}{outline}"/>'


def _number(value: float) -> str:
    """As short as it is exact: 20 000 is 20k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
