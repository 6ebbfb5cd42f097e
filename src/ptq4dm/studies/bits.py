"""How few bits: weights and activations from 8 down to 4, together and apart.

Weights of fewer bits are what any backend runs, stored in 8. Activations of fewer bits are simulated only: their
integers end at 2**bits - 1, and the input of a layer is clipped to what that stands for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor, nn

from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import RangeRecipe
from ptq4dm.studies.cases import SWEEP, Case, measured_case, recipe_case
from ptq4dm.studies.study import Study

SIMULATED: Final = "simulated only: no engine here clips activations at fewer than 8 bits"
QUICK: Final = ((8, 8), (6, 6), (4, 8), (8, 4), (4, 4))
FULL: Final = (
    *((n, n) for n in range(8, 3, -1)),
    *((n, 8) for n in range(7, 3, -1)),
    *((8, n) for n in range(7, 3, -1)),
)


def bits(study: Study) -> Sequence[Case]:
    """A case for each pair of bits."""
    return [one_width(study, weights, inputs) for weights, inputs in (QUICK if study.settings.quick else FULL)]


def one_width(study: Study, weights: int, inputs: int) -> Case:
    """The case W{weights}A{inputs}."""
    recipe = study.recipe.replace(weights={"bits": weights})

    def build() -> nn.Module:
        return with_input_bits(study.under_law(recipe), study.default_statistics, recipe.ranges, inputs)

    if inputs == 8:
        return recipe_case(study, "bits", f"W{weights}A8", {"weights": {"bits": weights}})
    identity = {"recipe": recipe.to_dict(), "calibration": SWEEP, "input_bits": inputs}
    return measured_case(study, "bits", f"W{weights}A{inputs}", identity, build, note=SIMULATED)


def with_input_bits(
    network: nn.Module, statistics: Mapping[str, LayerStatistics], recipe: RangeRecipe, input_bits: int
) -> nn.Module:
    """The network itself, inputs of its quantized layers now rounded to fewer bits, their ranges chosen for that."""
    levels = 2**input_bits - 1
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, QuantizedLayer)}
    table = choose_ranges({name: statistics[name] for name in layers}, recipe, levels=levels)
    for name, layer in layers.items():
        layer.input_scale.fill_(table.ranges[name].scale)
        layer.input_zero_point.fill_(table.ranges[name].zero_point)
        layer.register_forward_pre_hook(clip_to(levels))
    return network


def clip_to(levels: int) -> Any:
    """A hook before a layer that keeps its integers at or below `levels`."""

    def clip(layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        assert isinstance(layer, QuantizedLayer)
        most = (levels - layer.input_zero_point.to(args[0].dtype)) * layer.input_step().to(args[0].dtype)
        return (args[0].minimum(most),)

    return clip
