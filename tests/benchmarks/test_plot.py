from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmarks.sweeps.plot import CURVES_MAX, Curve, Dot, Panel, scale_of, svg

SPACE = "{http://www.w3.org/2000/svg}"


def dots(*medians: float) -> tuple[Dot, ...]:
    return tuple(Dot(float(x), median * 0.9, median, median * 1.2) for x, median in enumerate(medians))


def drawn(*curves: Curve, labels: tuple[str, ...] = ("0", "1 KiB"), joined: bool = True) -> str:
    return svg("sizes <of> bodies", "body", [Panel("CPU, µs", curves, labels=labels, joined=joined)])


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314  it is our own


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in parsed(picture).iter(f"{SPACE}text")]


def test_a_picture_has_its_title_units_places_and_legend_as_text() -> None:
    """A plot that does not say what it shows is decoration."""
    shown = texts(drawn(Curve("Ostiary", dots(10, 20)), Curve("nginx", dots(5, 6))))
    assert {"sizes <of> bodies", "CPU, µs", "body", "0", "1 KiB", "Ostiary", "nginx"} <= set(shown)


def test_the_same_figures_give_the_same_bytes_and_not_many() -> None:
    """Plots are kept in the repository: they must change with the figures alone, and be small."""
    curves = [Curve(f"curve {number}", dots(*range(1, 9))) for number in range(CURVES_MAX)]
    picture = drawn(*curves, labels=tuple("abcdefgh"))
    assert picture == drawn(*curves, labels=tuple("abcdefgh"))
    assert len(picture.encode()) < 10_000
    with pytest.raises(ValueError, match="can't be told apart"):
        drawn(*curves, Curve("one more", dots(1, 2)))


def test_a_picture_has_colours_for_light_pages_and_dark() -> None:
    """Black text on a dark page is no text."""
    style = parsed(drawn(Curve("Ostiary", dots(1, 2)))).find(f"{SPACE}style")
    assert style is not None
    light, dark = (style.text or "").split("@media(prefers-color-scheme:dark)")
    for name in (".page", ".ink", ".grid", ".c0"):
        rules = [re.search(rf"{re.escape(name)}\{{[^}}]*\}}", part) for part in (light, dark)]
        assert all(rules)
        assert rules[0][0] != rules[1][0]  # type: ignore[index]  # both were found


def test_more_is_higher_and_the_bar_reaches_from_least_to_most() -> None:
    """A picture upside down would call the slow side fast."""
    picture = parsed(drawn(Curve("Ostiary", dots(10, 20)), joined=False))
    marks = [float(mark.attrib["cy"]) for mark in picture.iter(f"{SPACE}circle")][:2]
    assert marks[1] < marks[0]
    bars = [path.attrib["d"] for path in picture.iter(f"{SPACE}path") if "V" in path.attrib["d"]]
    assert len(bars) == 2
    for mark, bar in zip(marks, bars, strict=True):
        low, high = (float(y) for y in re.fullmatch(r"M\S+ (\S+)V(\S+)", bar).groups())  # type: ignore[union-attr]  # or it fails
        assert high < mark < low


@pytest.mark.parametrize(
    ("values", "logarithmic", "ticks"),
    [
        ([10, 95], False, [0, 20, 40, 60, 80, 100]),
        ([30, 1500], True, [50, 100, 200, 500, 1000]),
        ([], False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_a_scale_shows_the_least_value_too(values: list[float], logarithmic: bool, ticks: list[float]) -> None:
    """From nothing up where that can be; with values of many sizes, the small ones would lie on the axis."""
    scale = scale_of(values, 200)
    assert scale.logarithmic is logarithmic
    assert scale.ticks() == pytest.approx(ticks)
    for value in values:
        assert 0 < scale.at(value) < 200
