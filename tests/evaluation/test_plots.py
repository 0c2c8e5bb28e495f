"""Charts are well-formed, stay inside their frame, survive NaN and hostile labels, and say their numbers."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.plots import (
    PlotRow,
    Point,
    ReferenceLine,
    bar_chart,
    category_chart,
    interval_chart,
    line_chart,
    reliability_diagram,
    scatter_chart,
)
from prefloop.evaluation.svg import WIDTH, axis, element, shorten, text_width, tick_labels
from prefloop.evaluation.wording import interval_of, number, percent, with_interval

NAN = math.nan
HOSTILE = "<script>alert(1)</script>\"'& \u202e\x00\ud800 ]]> --"
NAMESPACE = "{http://www.w3.org/2000/svg}"


def estimate(value: float, low: float = NAN, high: float = NAN, n: int = 9) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=n)


def parsed(svg: str) -> ElementTree.Element:
    """The drawing, after checks that hold for every chart."""
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{NAMESPACE}svg"
    assert [child.tag for child in root[:2]] == [f"{NAMESPACE}title", f"{NAMESPACE}desc"]
    assert root.get("role") == "img"
    assert "nan" not in re.sub(r">[^<]*<", "><", svg)  # no NaN in any attribute
    width, height = (float(side) for side in root.get("viewBox", "").split()[2:])
    assert width == WIDTH
    for each in root.iter():
        for key in ("x", "x1", "x2", "cx"):
            assert -1 <= float(each.get(key, 0)) <= width + 1
        for key in ("y", "y1", "y2", "cy"):
            assert -1 <= float(each.get(key, 0)) <= height + 1
        assert float(each.get("width", 0)) >= 0
        assert float(each.get("height", 0)) >= 0
    return root


def texts(root: ElementTree.Element) -> str:
    return "\n".join(each.text or "" for each in root.iter())


def every_chart(label: str, values: list[float]) -> list[str]:
    """One of each kind with these numbers in it."""
    rows = [
        PlotRow(label=label, estimate=estimate(v, v - 0.1, v + 0.2), slot=i) for i, v in enumerate(values)
    ]
    x = list(range(len(values)))
    references = [ReferenceLine(value=0.5, label=label)]
    series = [Series(label=label, x=x, y=values, low=[v - 1 for v in values], high=[v + 1 for v in values])]
    return [
        line_chart(
            [*series, Series(label="b", x=x, y=values[::-1])],
            references=references,
            smooth=True,
            title=label,
            x_label=label,
            y_label=label,
        ),
        interval_chart(rows, title=label, x_label=label, references=references),
        bar_chart([(label, abs(v), number(v)) for v in values], title=label),
        scatter_chart(
            [Point(label=label, x=r.estimate, y=r.estimate, note=label) for r in rows],
            curves=series,
            title=label,
            x_label=label,
            y_label=label,
        ),
        category_chart(rows, references=references, title=label, x_label=label, y_label=label),
        reliability_diagram(
            [0.75 for _ in rows], [r.estimate for r in rows], title=label, x_label=label, y_label=label
        ),
    ]


@pytest.mark.parametrize(
    "values",
    [
        [0.2, 0.8, 0.5],
        [NAN, 0.4, NAN, 0.6, NAN],
        [NAN, NAN],
        [math.inf, 0.5, -math.inf],
        [],
        [0.0],
        [3.0, 3.0],
        [1e-9, 2e-9],
        [-1e12, 1e12],
        [5e-324, 0.0],
        [-1e308, 1e308, 1.0],
        [1.0, 1.0 + 2e-16],
    ],
)
def test_any_numbers_make_a_drawing(values: list[float]):
    for svg in every_chart("policy", values):
        parsed(svg)


def test_hostile_labels_are_text():
    for svg in every_chart(HOSTILE, [0.3, 0.6]):
        root = parsed(svg)
        assert {each.tag.removeprefix(NAMESPACE) for each in root.iter()} <= {
            *("svg", "title", "desc", "text", "line", "path", "rect", "circle", "polygon", "g"),
        }
        assert "<script" not in svg
        assert "\u202e" not in svg
        assert "⟨U+202E⟩" in texts(root)


def test_attributes_are_escaped():
    assert (
        element("g", cls='"><script>', stroke_width=1.5)
        == '<g class="&quot;&gt;&lt;script&gt;" stroke-width="1.5"/>'
    )


def test_a_missing_value_breaks_the_line():
    svg = line_chart(
        [Series(label="a", x=[1, 2, 3, 4, 5], y=[1, 2, NAN, 4, 5])], title="t", x_label="step", y_label="y"
    )
    (path,) = parsed(svg).iter(f"{NAMESPACE}path")
    assert path.get("d", "").count("M") == 2


def test_many_points_are_thinned():
    n = 30_000
    svg = line_chart(
        [Series(label="a", x=range(n), y=[float(i % 7) for i in range(n)], slot=3, dashed=True)],
        title="t",
        x_label="step",
        y_label="y",
    )
    (path,) = parsed(svg).iter(f"{NAMESPACE}path")
    assert path.get("class") == "line s3 dashed"
    assert len(svg) < 60_000


def test_hover_says_the_numbers():
    svg = interval_chart(
        [PlotRow(label="ppo", estimate=estimate(0.81, 0.76, 0.86, n=200))],
        title="t",
        x_label="x",
        percent_axis=True,
    )
    assert "ppo: 81\u00a0% [76, 86], n = 200" in texts(parsed(svg))
    svg = line_chart([Series(label="kl", x=[1, 2], y=[0.5, 1.25])], title="t", x_label="step", y_label="nats")
    assert "step 2: kl 1.25" in texts(parsed(svg))


def test_points_without_a_place_are_left_out():
    points = [
        Point(label=name, x=estimate(x), y=estimate(y))
        for name, x, y in (("here", 1.0, 2.0), ("nowhere", NAN, 2.0), ("lost", 1.0, NAN))
    ]
    svg = scatter_chart(points, title="t", x_label="x", y_label="y")
    assert "nowhere" not in svg
    assert "lost" not in svg


@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e6), st.integers(2, 8))
@example(2048.0, 0.0005, 4)
def test_ticks_are_round_and_inside(low: float, width: float, count: int):
    found = axis([low, low + width], 0, 100, count=count)
    assert found.low <= low + 1e-6 * width
    assert found.high >= low + (1 - 1e-6) * width
    assert 2 <= len(found.ticks) <= 2 * count + 3
    labels = tick_labels(found.ticks)
    step = found.ticks[1] - found.ticks[0]
    if step > 1e-4 and max(abs(tick) for tick in found.ticks) < 1e4:
        assert len(set(labels)) == len(labels)
        assert (
            max(
                abs(float(label.replace("−", "-")) - tick)
                for label, tick in zip(labels, found.ticks, strict=True)
            )
            < step / 10
        )


def test_tick_labels():
    assert tick_labels([0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert tick_labels([-20, 0, 20]) == ["−20", "0", "20"]
    assert tick_labels([0, 0.25, 0.5], as_percent=True) == ["0\u00a0%", "25\u00a0%", "50\u00a0%"]
    assert tick_labels([0, 1e-5, 2e-5]) == ["0", "1e-5", "2e-5"]
    assert tick_labels([1.2e-5, 1.3e-5]) == ["1.2e-5", "1.3e-5"]
    assert tick_labels([0.5, 0.50001]) == ["0.50000", "0.50001"]
    assert tick_labels([0, 20_000])[1] == "20\u00a0k"


def test_shortened_labels_fit():
    assert shorten("short", 100) == "short"
    cut = shorten("a very long policy name indeed", 60)
    assert cut.endswith("…")
    assert text_width(cut) <= 60


def test_numbers_in_words():
    assert [number(x) for x in (0, 1234.5, 0.12345, -3.456, 2.5e6, 1e-5, NAN)] == [
        *("0", "1234", "0.123", "−3.46", "2.5\u00a0M", "1.0e-5", "–"),
    ]
    assert [percent(x) for x in (0, 0.5, 0.013, 0.991, 1, NAN)] == [
        *("0\u00a0%", "50\u00a0%", "1.3\u00a0%", "99.1\u00a0%", "100\u00a0%", "–"),
    ]
    assert with_interval(estimate(1.2345, 1.01, 1.41)) == "1.23 [1.01, 1.41]"
    assert with_interval(estimate(-0.004, -0.14, 0.13)) == "0.00 [−0.14, 0.13]"
    assert with_interval(estimate(3.0)) == "3"
    assert with_interval(estimate(1000.0, 1000 - 1e-10, 1000 + 1e-10)) == "1000"  # an anchor's rating
    assert [number(x) for x in (999.7, 9_999.7, 999_999)] == ["1000", "10\u00a0k", "1\u00a0M"]
    assert with_interval(estimate(100.1234, 100.1224, 100.1244)) == "100.123 [100.122, 100.124]"
    assert interval_of(estimate(0.78, 0.72, 0.83), share=True) == "72 to 83\u00a0%"
