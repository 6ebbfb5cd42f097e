"""What the experiment on time-step-dependent scales builds, and what its sentence says."""

from typing import Any

import pytest
import torch

from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.time_bands import bands_of
from ptq4dm.ranges.time_bands import banded_ranges
from ptq4dm.studies import time_scales as module
from ptq4dm.studies.sentences import sentence
from ptq4dm.studies.study import Study

LAYERS = 4
"""That get bands here: choosing ranges takes a while."""


def test_rows_differ_in_scales_only_and_clip_at_few_bits_in_every_band(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(statistics: dict[str, Any], *rest: Any) -> Any:
        return banded_ranges({name: statistics[name] for name in list(statistics)[:LAYERS]}, *rest)

    monkeypatch.setattr(module, "banded_ranges", few)
    network = module.one_band(study, 4)
    found = module.put_time_bands(study, network, 4, 3)
    bands = bands_of(network)
    assert found is not None and bands is not None and bands.cuts == found.cuts and len(found.cuts) == 2
    assert found.loss[0] > found.loss[2]
    seen: dict[str, set[float]] = {name: set() for name in found.ranges}

    def watch(name: str) -> Any:
        def note(layer: QuantizedLayer, args: Any) -> None:
            seen[name].update((layer.centred_input(args[0]) + layer.zero_point(args[0])).unique().tolist())

        return note

    for name, chosen in found.ranges.items():
        layer, plain = network.get_submodule(name), study.default_network.get_submodule(name)
        assert torch.equal(layer.weight, plain.weight) and plain.bands is None
        assert layer.input_scale.tolist() == pytest.approx([item.scale for item in chosen])
        layer.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for x_t, t in zip(study.pool.x_t, study.pool.timesteps, strict=True):
            network(3 * x_t, t)
    assert all(values <= set(map(float, range(16))) and 15.0 in values for values in seen.values())


def test_the_cases_are_told_before_any_work_and_compared_with_one_band(study: Study) -> None:
    cases = module.time_scales(study)
    assert [case.variant for case in cases[:2]] == ["A8, one band", "A8, 4 bands"] and len(cases) == 4
    for one, other in zip(cases[::2], cases[1::2]):
        assert other.baseline is one and other.identity == {**one.identity, "time_bands": 4}


def row(variant: str, key: str, error: float, baseline: str | None, low: float = 0.0, high: float = 0.0) -> Any:
    difference = None if baseline is None else {"value": 0.0, "low": low, "high": high}
    return {
        "variant": variant,
        "key": key,
        "baseline": baseline,
        "n": 8,
        "per_picture": {"relative_l2": [error]},
        "call": {"relative_l2": {"mean": error, "difference": difference}},
    }


def test_the_sentence_names_the_best_number_of_bands_and_whether_it_matters() -> None:
    rows = [
        row("A8, one band", "d", 0.01, None),
        row("A8, 2 bands", "e", 0.0099, "d", -0.001, 0.001),
        row("A4, one band", "f", 0.2, "d", 0.1, 0.3),
        row("A4, 2 bands", "g", 0.15, "f", -0.06, -0.04),
        row("A4, 4 bands", "h", 0.12, "f", -0.09, -0.07),
    ]
    assert sentence("time_scales", rows) == (
        "A8, 2 bands: 0.99 % a call against 1 % with one band, no difference beyond the 95 % interval. "
        "A4, 4 bands: 12 % a call against 20 % with one band, beyond the 95 % interval. Over 8 pictures."
    )
    assert sentence("time_scales", rows[:1]) == "No row has a paired difference from one band yet."
