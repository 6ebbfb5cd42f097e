"""The ranges of an earlier run put on a float network: what `PTQ4DMConfig(calibrated=FOLDER)` does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError, ModelError, RecipeError
from ptq4dm.integrations.config import PTQ4DMConfig
from ptq4dm.numerics import ACTIVATION_MAX
from ptq4dm.pipelines.fused import FUSED, drop_idle_layers, fuse_again, fused_attentions
from ptq4dm.pipelines.loading import FAULTS, one_line
from ptq4dm.quantization.artifact import FORMAT_VERSION, read_facts, read_weights, recipe_of
from ptq4dm.quantization.filling import rounded_layers
from ptq4dm.quantization.folded_factors import read_factors
from ptq4dm.quantization.folding import Folds, can_take_factors, fold
from ptq4dm.quantization.half_layers import half_form
from ptq4dm.quantization.layers import QUANTIZABLE, weight_of
from ptq4dm.quantization.layers_qdq import OutputQuantized, integer_bias
from ptq4dm.quantization.plan import layer_names
from ptq4dm.quantization.rewrite import quantize_layer
from ptq4dm.quantization.shared import layers_entry
from ptq4dm.quantization.time_axis import axis_entry
from ptq4dm.quantization.weight_only import has_weight_only_form, weight_only_form
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import WeightRecipe
from ptq4dm.registration import TELLING


@dataclass(frozen=True)
class CalibratedRanges:
    """What an artifact knows of a network's activations.

    folder: the artifact. ranges: of the layers' inputs; outputs: of the outputs that the arithmetic `qdq` rounds;
    weight_only, half: the layers with float inputs and weights in 8 bits, in float16; they have no ranges; shapes: of
    the weights of all these, by which another network is told; smoothing: of the layers that are smoothed; weights: how
    to round them; time_axis: what it was calibrated over; folds: the layers that take factors in, and those behind
    them; folded: the factors; fused: the attentions with fused projections.
    """

    folder: str
    ranges: Mapping[str, InputRange]
    outputs: Mapping[str, InputRange]
    weight_only: Sequence[str]
    half: Sequence[str]
    shapes: Mapping[str, tuple[int, ...]]
    smoothing: Mapping[str, Tensor]
    weights: WeightRecipe
    arithmetic: str
    time_axis: Mapping[str, Any] | None
    folds: Folds
    folded: Mapping[str, Tensor]
    fused: Sequence[str]

    def check(self, network: nn.Module) -> None:
        """Raise ArtifactError unless every layer stands in `network`, with weights of the same shape; those of fused
        projections are there as soon as it is loaded and fused."""
        modules = dict(network.named_modules())
        unfused = {name for name in self.fused if modules.get(name) is not None and not fused_attentions(network)}
        able = can_take_factors(network)
        for name, factors in self.folded.items():
            if name not in able or len(weight_of(able[name])) != len(factors):
                raise ArtifactError(
                    f"{self.folder} was calibrated on another network: {name}, which takes in smoothing factors of "
                    f"{len(factors)} channels there, is not such a layer here: quantize this one with ptq4dm.quantize"
                )
        for name, shape in self.shapes.items():
            owner, _, attribute = name.rpartition(".")
            if attribute in FUSED and owner in unfused:
                continue
            layer = modules.get(name)
            held = has_weight_only_form(layer) if name in self.weight_only else isinstance(layer, QUANTIZABLE)
            found = tuple(weight_of(layer).shape) if layer is not None and held else None
            if found != shape:
                raise ArtifactError(
                    f"{self.folder} was calibrated on another network: {name} has weights of {shape} there, of {found} "
                    "here: quantize this one with ptq4dm.quantize"
                )

    def apply(self, network: nn.Module) -> PTQ4DMConfig:
        """Quantize the layers of a loaded float network in place; its config as a quantized one."""
        fuse_again(network, self.fused, self.folder)
        drop_idle_layers(network)
        self.check(network)
        aliases = layer_names(network)
        for name in (*self.shapes, *self.folds):
            if any(tensor.is_meta for tensor in network.get_submodule(name).parameters()):
                raise ModelError(f"the checkpoint has no weights for {name}: load or download the float model again")
        for name in self.shapes:
            put(network, aliases[name], self.quantized(network.get_submodule(name), name))
        for name in self.folds:
            for tensor in network.get_submodule(name).parameters(recurse=False):
                tensor.data = tensor.data.clone()  # it may lie in the checkpoint's file
        fold(network, self.folds, self.folded)
        for name in self.outputs:
            put(network, aliases[name], self.output_rounded(network.get_submodule(name), name))
        header = {"quant_method": TELLING, "format_version": FORMAT_VERSION, "arithmetic": self.arithmetic}
        entry = {**layers_entry(network), **axis_entry(self.time_axis), "layers": list(self.ranges)}
        return PTQ4DMConfig.of_header({**header, **entry})

    def quantized(self, layer: nn.Module, name: str) -> nn.Module:
        """One layer, its weights rounded now; its output is not."""
        if name in self.weight_only:
            return weight_only_form(layer, name)
        if name in self.half:
            return half_form(layer)
        return quantize_layer(layer, name, self.ranges[name], None, self.weights, self.smoothing.get(name))

    def output_rounded(self, inner: Any, name: str) -> nn.Module:
        """A quantized layer with its output rounded too."""
        inner.bias = integer_bias(inner)
        outer = OutputQuantized(inner).to(inner.weight.device)
        outer.output_scale.fill_(self.outputs[name].scale)
        outer.output_zero_point.fill_(self.outputs[name].zero_point)
        return outer.train(inner.training)


def put(network: nn.Module, names: Sequence[str], layer: nn.Module) -> None:
    """Put a layer in a network, under all its names."""
    for name in names:
        owner, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(owner), attribute, layer)


def read_calibrated(config: PTQ4DMConfig) -> CalibratedRanges:
    """The ranges that a config names. Raises RecipeError: none are named; ArtifactError: the folder has none."""
    if config.calibrated is None:
        raise RecipeError(
            "PTQ4DMConfig() has no ranges for a float network: give PTQ4DMConfig(calibrated=FOLDER) with a folder that "
            "`ptq4dm quantize --out FOLDER` wrote, or quantize the pipeline with ptq4dm.quantize"
        )
    folder = Path(config.calibrated)
    facts = read_facts(folder)
    try:
        return ranges_of(folder, facts, config.component)
    except FAULTS as error:
        raise ArtifactError(
            f"{folder} is damaged ({type(error).__name__}: {one_line(error)}): quantize the model again"
        ) from error


def ranges_of(folder: Path, facts: dict[str, Any], component: str | None) -> CalibratedRanges:
    """The ranges of one denoiser of an artifact. Raises RecipeError: which is not clear."""
    held = facts["denoisers"]
    if component is None and len(held) > 1:
        raise RecipeError(f"{folder} has several denoisers: PTQ4DMConfig(component=...) names one of {', '.join(held)}")
    if component is not None and component not in held:
        raise RecipeError(f"{folder} has no denoiser {component!r}: accepted are {', '.join(held)}")
    component = component or next(iter(held))
    denoiser = held[component]
    folds = {front: tuple(names) for front, names in denoiser["facts"].get("folded", {}).items()}
    folded = read_factors(folder, component)
    if set(folds) != set(folded):
        raise ArtifactError(
            f"{folder}: its ranges are of inputs whose smoothing was folded into other layers "
            f"({', '.join(list(folds)[:3])}), and its file of the factors is missing or of another artifact: quantize "
            "the model again"
        )
    if denoiser.get("attention_products"):
        raise ArtifactError(
            f"{folder} multiplies attention's matrices in 8 bits (attention_products), which are not put on a float "
            "checkpoint: quantize this one with ptq4dm.quantize"
        )
    if denoiser.get("time_bands"):
        raise ArtifactError(
            f"{folder} has time-step-dependent scales ([activations] time_bands), which are not put on a float "
            "checkpoint: quantize this one with ptq4dm.quantize, or make the artifact with time_bands = 1"
        )
    tensors = read_weights(folder, denoiser)
    rounded = rounded_layers(denoiser["layers"], tensors)
    inner = {name: f"{name}.layer" if name in rounded else name for name in denoiser["layers"]}
    weight_only = denoiser.get("weight_only", [])
    half = denoiser.get("half", [])
    weights = {**inner, **{name: name for name in (*weight_only, *half)}}
    for name in weight_only:
        if tensors[f"{name}.weight"].dtype != torch.int8:
            raise ArtifactError(f"{folder}: {name!r} has no 8-bit weights: quantize the model again")
    return CalibratedRanges(
        str(folder),
        {name: saved_range(tensors, f"{path}.input") for name, path in inner.items()},
        {name: saved_range(tensors, f"{name}.output") for name in rounded},
        weight_only,
        half,
        {name: tuple(tensors[f"{path}.weight"].shape) for name, path in weights.items()},
        {name: tensors[f"{path}.smoothing"] for name, path in inner.items() if f"{path}.smoothing" in tensors}
        | {name: folded[front] for front, names in folds.items() for name in names},
        recipe_of(folder, facts).weights,
        facts["arithmetic"],
        denoiser["facts"].get("time_axis"),
        folds,
        folded,
        denoiser.get("fused", []),
    )


def saved_range(tensors: Mapping[str, Tensor], name: str) -> InputRange:
    """The range that a scale and a zero point span; its loss is not saved."""
    scale, zero_point = float(tensors[f"{name}_scale"]), int(tensors[f"{name}_zero_point"])
    return InputRange(scale, zero_point, -scale * zero_point, scale * (ACTIVATION_MAX - zero_point), float("nan"))
