"""The charts and sentences of `redundancy` say what their facts say."""

import copy
import re

import pytest
from report.study_example import redundancy_rows

from ptq4dm.report.redundancy_charts import growth_chart, noise_map, parts_of, shares_chart
from ptq4dm.studies.redundancy_sentences import addition_words, redundancy_sentence

NOISE_ROW, GROWTH_ROW, SHARE_ROW = redundancy_rows()


def test_each_sentence_is_computed_from_its_facts() -> None:
    noise, growth, share = (part["sentence"] for part in parts_of(redundancy_rows()))
    assert "Half of the 2 layers have 39.0 dB or more" in noise and "and 36.0 dB in their output" in noise
    assert "up_blocks.0.conv<1>, 29.0 dB over all time-steps and 26.0 dB at t = 0." in noise
    assert "moves by 4.0 dB" in noise
    assert "grows from 2 % after the first step to 2 % before the last, and the picture is 4 % off" in growth
    assert (
        "2 times the mean error of a single call (2 %); half of the largest error of x_t is there after 1 of 2"
        in growth
    )
    assert "1 of 2 layer makes half" in share and "alone 120% of that of all together, for 1.0% of the" in share
    assert "leaves in float make 120%" in share and "1.50 times the squared error of all together" in share
    assert redundancy_sentence(redundancy_rows()) == f"{noise} {growth} {share}"


@pytest.mark.parametrize(("total", "says"), [(0.95, "add up as independent"), (1.2, "cancel"), (0.7, "reinforce")])
def test_the_sum_of_shares_is_read(total: float, says: str) -> None:
    assert says in addition_words(total)


def test_networks_without_error_are_said_to_have_none() -> None:
    rows = copy.deepcopy(redundancy_rows())
    for layer in rows[0]["facts"]["layers"]:
        layer.update(input_all=None, output_all=None, input=[None, None], output=[None, None])
    rows[1]["facts"]["call"]["mean"] = [0.0, 0.0]
    rows[2]["facts"]["additivity"] = 0.0
    for layer in rows[2]["facts"]["layers"]:
        layer["share"] = 0.0
    said = [part["sentence"] for part in parts_of(rows)]
    assert said == [
        "No layer has any noise of rounding.",
        "No call differs from the float network's.",
        "No layer makes any error.",
    ]


@pytest.mark.parametrize("width", [340, 760])
def test_the_noisiest_cell_is_the_darkest(width: int) -> None:
    cells = re.findall(
        r'fill-opacity="([0-9.]+)">.*?<title>([^<]*)</title>', noise_map(NOISE_ROW["facts"], width), re.DOTALL
    )
    shades = {tip: float(shade) for shade, tip in cells}
    assert len(shades) == 4
    assert shades["up_blocks.0.conv&lt;1&gt;, t = 0: 26.0 dB"] == 1.0
    assert shades["mid.attentions.0.to_q, t = 980: 44.0 dB"] == 0.03
    assert shades["up_blocks.0.conv&lt;1&gt;, t = 980: 30.0 dB"] == pytest.approx(14 / 18, abs=1e-3)


def test_bars_are_as_long_as_shares_and_grey_where_the_default_recipe_keeps_float() -> None:
    chart = str(shares_chart(SHARE_ROW["facts"], 760))
    long, short = (float(value) for value in re.findall(r'class="bar-[a-z0-9]+"[^>]*? width="([0-9.]+)"', chart))
    assert long / short == pytest.approx(4, rel=0.01)
    assert chart.index("bar-float") < chart.index("bar-int8")
    assert "120 % for 1.0 %" in chart


def test_the_picture_stands_behind_the_last_step() -> None:
    chart = str(growth_chart(GROWTH_ROW["facts"], 760))
    points = re.search(r'class="series-0" points="([^"]*)"', chart)
    assert points
    (x0, y0), (x1, y1) = (tuple(map(float, pair.split(","))) for pair in points[1].split())
    dot = re.search(r'class="dot" cx="([0-9.]+)" cy="([0-9.]+)"', chart)
    assert dot
    assert float(dot[1]) - x1 == pytest.approx(x1 - x0, abs=0.2)
    assert y0 - float(dot[2]) == pytest.approx(2 * (y0 - y1), abs=0.3)
