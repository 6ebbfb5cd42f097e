import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from ptq4dm.errors import ArtifactError, CalibrationError, RecipeError
from ptq4dm.files import read_tensors
from ptq4dm.ranges.histograms import Histogram, LayerStatistics, band_edges
from ptq4dm.ranges.range_table import RangeTable, choose_ranges, summary_of
from ptq4dm.recipe import RangeRecipe


def statistics(seed: int) -> LayerStatistics:
    generator = torch.Generator().manual_seed(seed)
    histogram = Histogram(band_edges(4, 0, 1000), 3)
    histogram.add(torch.randn(8, 3, 50, generator=generator) * (seed + 1), torch.arange(8) % 3)
    return histogram.finish()


@pytest.fixture(scope="module")
def table() -> RangeTable:
    return choose_ranges({"a": statistics(0), "block.b": statistics(1)}, RangeRecipe())


def statistics_of(values: torch.Tensor) -> LayerStatistics:
    histogram = Histogram(band_edges(1, 0, 1000), 1)
    histogram.add(values.reshape(1, 1, -1), torch.zeros(1, dtype=torch.int64))
    return histogram.finish()


def same(one: LayerStatistics, other: LayerStatistics) -> bool:
    return all(
        torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
        for left, right in (
            (getattr(one, item.name), getattr(other, item.name)) for item in dataclasses.fields(LayerStatistics)
        )
    )


def test_saved_and_loaded_is_the_same(table, tmp_path):
    table.save(tmp_path / "ranges.safetensors")
    loaded = RangeTable.load(tmp_path / "ranges.safetensors")
    assert loaded.ranges == table.ranges and loaded.facts == table.facts
    assert all(same(loaded.statistics[name], table.statistics[name]) for name in ("a", "block.b"))
    assert loaded.fingerprint == table.fingerprint


def test_the_fingerprint_sees_ranges_statistics_and_facts(table):
    moved = dataclasses.replace(table.ranges["a"], scale=table.ranges["a"].scale * 1.0001)
    counts = table.statistics["a"].counts.clone()
    counts[0, 4096] += 1
    changed = [
        dataclasses.replace(table, ranges={**table.ranges, "a": moved}),
        dataclasses.replace(table, facts={**table.facts, "metric": "l1"}),
        dataclasses.replace(
            table, statistics={**table.statistics, "a": dataclasses.replace(table.statistics["a"], counts=counts)}
        ),
    ]
    assert len({table.fingerprint, *(item.fingerprint for item in changed)}) == 4


def test_counts_beyond_32_bits_survive(table, tmp_path):
    counts = table.statistics["a"].counts * 2**33
    big = dataclasses.replace(table.statistics["a"], counts=counts)
    dataclasses.replace(table, statistics={**table.statistics, "a": big}).save(tmp_path / "big.safetensors")
    assert torch.equal(RangeTable.load(tmp_path / "big.safetensors").statistics["a"].counts, counts)


def test_another_law_needs_no_new_statistics(table):
    only = [1.0, 0, 0, 0]
    again = choose_ranges(table.statistics, RangeRecipe(metric="minmax"), band_weights=only)
    low, high = float(table.statistics["a"].low[0]), float(table.statistics["a"].high[0])
    assert again.ranges["a"].scale == pytest.approx((high - low) / 255)
    assert again.facts["band_weights"] == only and again.facts["metric"] == "minmax"
    with pytest.raises(CalibrationError, match="time-steps 750 to 1000"):
        choose_ranges(table.statistics, RangeRecipe(), band_weights=[1, 1, 1, 1])
    with pytest.raises(CalibrationError, match="not negative"):
        choose_ranges(table.statistics, RangeRecipe(), band_weights=[1, -1, 1, 0])


@pytest.mark.parametrize("metric", ["mse", "lp", "kl", "minmax"])
def test_an_input_that_float32_cannot_square_names_the_layer(metric):
    with pytest.raises(CalibrationError, match=r"the input of layer mid\.conv reaches 3e\+30 .* keep_float"):
        choose_ranges({"mid.conv": statistics_of(torch.tensor([-3e30, 1.0, 2.0]))}, RangeRecipe(metric=metric))
    found = choose_ranges({"a": statistics_of(torch.tensor([-9e15, 1.0, 1e15]))}, RangeRecipe(metric=metric))
    assert found.ranges["a"].scale == pytest.approx(1e16 / 255, rel=0.1)


def test_a_metric_that_returns_nonsense_names_the_layer():
    own = RangeRecipe(metric=lambda values, weights, quantized: torch.full((len(quantized),), torch.nan))
    with pytest.raises(RecipeError, match=r"layer mid\.conv, input from -1 to 2: the metric should return"):
        choose_ranges({"mid.conv": statistics_of(torch.tensor([-1.0, 2.0]))}, own)


def test_layers_of_one_input_are_searched_once():
    calls = []

    def metric(values, weights, quantized):
        calls.append(len(values))
        return (quantized - values).square() @ weights

    shared, own = statistics(1), statistics(2)
    alone = choose_ranges({"a": shared, "c": own}, RangeRecipe(metric=metric)).ranges
    made = len(calls)
    found = choose_ranges({"a": shared, "b": statistics(1), "c": own}, RangeRecipe(metric=metric)).ranges
    assert found == {"a": alone["a"], "b": alone["a"], "c": alone["c"]} and found["a"] != found["c"]
    assert len(calls) == 2 * made


def test_summary_is_plain_data_of_the_bands(table):
    rows = json.loads(json.dumps(summary_of(table.statistics["a"]), allow_nan=False))
    assert [(row["from"], row["to"]) for row in rows] == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert rows[3]["min"] is None and rows[0]["min"] == float(table.statistics["a"].low[0])
    assert rows[0]["min"] <= rows[0]["percentiles"]["1"] < rows[0]["percentiles"]["99"] <= rows[0]["max"]


def damaged(path, table, **changes):
    table.save(path)
    tensors, metadata = read_tensors(path)
    metadata.update({key: value for key, value in changes.items() if isinstance(value, str)})
    for key in changes.get("drop", ()):
        del tensors[key]
    save_file(tensors, path, metadata)


def test_damaged_or_foreign_files_are_refused(table, tmp_path):
    path = tmp_path / "ranges.safetensors"
    with pytest.raises(ArtifactError, match="missing"):
        RangeTable.load(path)
    damaged(path, table, version="9")
    with pytest.raises(ArtifactError, match="format '9', this ptq4dm reads 2"):
        RangeTable.load(path)
    damaged(path, table, format="other")
    with pytest.raises(ArtifactError, match="no range table"):
        RangeTable.load(path)
    damaged(path, table, drop=["a.counts"])
    with pytest.raises(ArtifactError, match="damaged"):
        RangeTable.load(path)
    table.save(path)
    header = json.loads(read_tensors(path)[1]["header"])
    for key, value in (("scale", 0.0), ("scale", float("nan")), ("zero_point", None), ("extra", 1)):
        bad = json.loads(json.dumps(header))
        bad["layers"]["a"]["range"][key] = value
        damaged(path, table, header=json.dumps(bad))
        with pytest.raises(ArtifactError, match="damaged"):
            RangeTable.load(path)
    table.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="damaged or no safetensors"):
        RangeTable.load(path)
