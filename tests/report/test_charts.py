import itertools
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.example import activation, example_results

from ptq4dm.report import charts
from ptq4dm.report.svg import Scale, line, make_axes, nice_range, nice_ticks, number

FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(FINITE, st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_round_even_and_inside(low: float, width: float, wanted: int) -> None:
    high = low + width
    ticks = nice_ticks(low, high, wanted)
    assert 1 <= len(ticks) <= wanted + 1
    assert all(low - 1e-6 * width <= tick <= high + 1e-6 * width for tick in ticks)
    for first, second in itertools.pairwise(ticks):
        step = second - first
        mantissa = step / 10 ** math.floor(math.log10(step * 1.001))
        assert any(mantissa == pytest.approx(round_one, rel=1e-3) for round_one in (1, 2, 2.5, 5))


@given(FINITE, FINITE)
def test_range_holds_the_data_and_has_width(first: float, second: float) -> None:
    low, high = nice_range(min(first, second), max(first, second))
    slack = 1e-6 * (abs(first) + abs(second))
    assert low <= min(first, second) + slack and high >= max(first, second) - slack
    assert high > low


def test_scale_maps_ends_and_does_not_divide_by_zero() -> None:
    scale = Scale(10, 20, 100, 0)
    assert [scale(value) for value in (10, 15, 20)] == [100, 50, 0]
    assert Scale(3, 3, 0, 10)(3) == 5


def test_tick_labels_have_a_real_minus_and_no_negative_zero() -> None:
    assert [number(value) for value in (-2.5, 0.0, -0.0, 1000.0)] == ["−2.5", "0", "0", "1000"]


def test_a_curve_breaks_where_a_value_is_missing() -> None:
    parts = ET.fromstring(f"<g>{line(make_axes(100, 100, (0, 4), (0, 1)), range(5), [0, 1, None, 1, 0], 'c')}</g>")
    assert [len(part.attrib["points"].split()) for part in parts] == [2, 2]


def test_histogram_bars_are_as_high_as_numpy_counts_them() -> None:
    drawn = np.random.default_rng(0).integers(0, 1000, 500)
    chart = ET.fromstring(charts.timestep_chart(drawn.tolist(), [1, 21], 1000, None, 1072))
    heights = np.array([float(rect.attrib["height"]) for rect in chart.iter("rect") if rect.attrib["class"] == "bar"])
    counts = np.bincount(drawn // 25, minlength=40)
    assert heights / heights.sum() == pytest.approx(counts / counts.sum(), abs=1e-3)
    assert sum(rect.attrib["class"] == "visited" for rect in chart.iter("rect")) == 2


def test_the_chosen_range_is_drawn_where_the_values_are() -> None:
    row = activation("layer", 0) | {"min": [-2.0] * 20, "max": [6.0] * 20, "low": -2.0, "high": 6.0}
    chart = ET.fromstring(charts.range_chart(row))
    lines = sorted(float(item.attrib["y1"]) for item in chart.iter("line") if item.attrib["class"] == "chosen")
    band = next(item for item in chart.iter("polygon") if item.attrib["class"] == "spread-wide")
    heights = sorted({float(point.split(",")[1]) for point in band.attrib["points"].split()})
    assert lines == heights and len(lines) == 2


def test_bars_of_engines_are_in_proportion_and_int8_stands_out() -> None:
    rows = example_results()["speed"]["rows"]
    chart = ET.fromstring(charts.engines_chart(rows, 516))
    bars = {rect.attrib["class"]: float(rect.attrib["width"]) for rect in chart.iter("rect")}
    longest = max(float(rect.attrib["width"]) for rect in chart.iter("rect"))
    assert bars["bar-int8"] / longest == pytest.approx(0.0553 / 0.1204, abs=0.01)


@pytest.mark.parametrize("width", [330, 516])
def test_dots_of_ratios_lie_on_the_same_scale_as_the_limit(width: int) -> None:
    ratios = [{"name": "a", "value": 1.5}, {"name": "b", "value": 2.0, "low": 1.9, "high": 2.1}]
    chart = ET.fromstring(charts.ratios_chart(ratios, 2.0, width))
    dots = [float(dot.attrib["cx"]) for dot in chart.iter("circle")]
    places = {item.attrib["class"]: float(item.attrib["x1"]) for item in chart.iter("line")}
    assert dots[1] == pytest.approx(places["limit"], abs=0.1)
    assert dots[0] == pytest.approx((places["even"] + places["limit"]) / 2, abs=0.1)


def test_every_chart_has_a_name_and_a_description() -> None:
    results = example_results()
    found = [
        charts.range_chart(results["activation_ranges"][0]),
        charts.engines_chart(results["speed"]["rows"], 330),
        charts.ratios_chart(results["speed"]["ratios"], None, 330),
        charts.layers_chart(results["layers"], 330),
        charts.curve_chart("key", "title", [900, 1], [1.0, None], "%", None, 330),
    ]
    for markup in found:
        chart = ET.fromstring(markup)
        named = {item.attrib["id"]: item.text for item in chart if item.tag in ("title", "desc")}
        assert chart.attrib["aria-labelledby"].split() == list(named)
        assert all(named.values())
