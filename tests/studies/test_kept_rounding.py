"""Weights that were rounded once are read; those of anything else are rounded."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.error_feedback import round_again
from ptq4dm.quantization.layers import QuantizedLinear
from ptq4dm.quantization.rewrite import quantize_layer
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import WeightRecipe
from ptq4dm.studies import kept_rounding
from ptq4dm.studies.kept_rounding import KeptRounding

RECIPE = WeightRecipe()


@pytest.fixture
def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 5, bias=False)).requires_grad_(False).eval()


@pytest.fixture
def calls() -> list[Call]:
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(12, 12, generator=generator)
    return [Call((torch.randn(64, 12, generator=generator) @ mixed,)) for _ in range(2)]


def rounded(network: nn.Sequential, scale: float = 0.05) -> dict[str, QuantizedLinear]:
    """To the nearest."""
    chosen = InputRange(scale, 128, -128 * scale, 127 * scale, 0.0)
    found = {name: quantize_layer(layer, name, chosen, None, RECIPE) for name, layer in network.named_children()}
    return {name: layer for name, layer in found.items() if isinstance(layer, QuantizedLinear)}


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sets are rounded each time that any are."""
    seen, real = [], kept_rounding.round_all

    def counted(network: nn.Module, jobs, calls, shown):
        seen.append(len(jobs))
        real(network, jobs, calls, shown)

    monkeypatch.setattr(kept_rounding, "round_all", counted)
    return seen


def same(one: dict[str, QuantizedLinear], other: dict[str, QuantizedLinear]) -> bool:
    return all(
        torch.equal(item, other[name].state_dict()[key])
        for name, layer in one.items()
        for key, item in layer.state_dict().items()
    )


def test_what_was_rounded_once_is_read_and_is_that_of_rounding(network, calls, tmp_path: Path, monkeypatch):
    seen = counting(monkeypatch)
    wanted, first, second = rounded(network), rounded(network), rounded(network)
    round_again(network, wanted, calls, RECIPE)
    KeptRounding(tmp_path, "m")(network, [(first, RECIPE)], calls)
    KeptRounding(tmp_path, "m")(network, [(second, RECIPE)], calls)
    assert seen == [1] and same(first, wanted) and same(second, wanted) and not same(wanted, rounded(network))


def test_only_the_sets_that_are_not_kept_are_rounded(network, calls, tmp_path: Path, monkeypatch):
    seen, keeper = counting(monkeypatch), KeptRounding(tmp_path, "m")
    keeper(network, [(rounded(network), RECIPE)], calls)
    other, wanted = rounded(network, 0.1), rounded(network, 0.1)
    keeper(network, [(rounded(network), RECIPE), (other, RECIPE), ({}, RECIPE)], calls)
    round_again(network, wanted, calls, RECIPE)
    assert seen == [1, 1] and same(other, wanted)


@pytest.mark.parametrize("what", ["calls", "recipe", "model", "weights", "ranges", "damage"])
def test_anything_else_is_rounded_anew(network, calls, tmp_path: Path, monkeypatch, what: str):
    seen = counting(monkeypatch)
    KeptRounding(tmp_path, "m")(network, [(rounded(network), RECIPE)], calls)
    given, recipe, model = calls, RECIPE, "m"
    layers = rounded(network, 0.06 if what == "ranges" else 0.05)
    if what == "calls":
        given = [calls[0], Call((calls[1].args[0] + 1,))]
    elif what == "recipe":
        recipe = replace(RECIPE, bias_correction=False)
    elif what == "model":
        model = "another"
    elif what == "weights":
        layers["0"].weight[0, 0] += 1
    elif what == "damage":
        next(tmp_path.glob("*.safetensors")).write_bytes(b"damaged")
    KeptRounding(tmp_path, model)(network, [(layers, recipe)], given)
    assert seen == [1, 1]


def test_no_more_is_kept_than_there_is_room_for(network, calls, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kept_rounding, "ROOM", 150)  # one set of layers has 72 + 30 bytes of integers and 24 of biases
    keeper = KeptRounding(tmp_path, "m")
    for scale in (0.05, 0.06):
        keeper(copy.deepcopy(network), [(rounded(network, scale), RECIPE)], calls)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
