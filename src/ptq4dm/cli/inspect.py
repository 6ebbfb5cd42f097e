"""Show what an artifact holds: layers, ranges, recipe, calibration."""

import argparse
from collections import Counter
from typing import Any

from torch import Tensor, nn

from ptq4dm.cli.options import add_json, show, table
from ptq4dm.quantization.artifact import load
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.quantized_model import QuantizedModel
from ptq4dm.quantization.summary import summary
from ptq4dm.quantization.time_bands import bands_words
from ptq4dm.quantization.weight_only import weight_only_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="an artifact's folder")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print the layers and the totals."""
    model = load(args.model)
    modules = modules_of(model)
    rows, layers = [], []
    for layer in model.plan:
        module = modules.get(f"{layer.name}.layer", modules.get(layer.name))  # `.layer`: its output is rounded too
        held = isinstance(module, QuantizedLayer)
        scale = module.input_scale.tolist() if held else None
        zero_point = module.input_zero_point.tolist() if held else None
        bits = weight_bits(module)
        layers.append({"name": layer.name, "kind": layer.kind, "quantized": layer.quantized, "reason": layer.reason,
                       "weight_bits": bits, "input_scale": scale, "input_zero_point": zero_point})  # fmt: skip
        rows.append((layer.name, layer.kind, "INT8" if held else "float", "" if bits is None else f"{bits} bit",
                     span(scale, ".3g"), span(zero_point, "d"),
                     layer.reason))  # fmt: skip
    weight_only = sum(len(weight_only_names(denoiser.network)) for denoiser in model.denoisers.values())
    by_method: Counter[str] = Counter()
    products: dict[str, str] = {}
    time_bands: dict[str, dict[str, Any]] = {}
    gains: dict[str, float] = {}
    smoothed = folded = 0
    for component, denoiser in model.denoisers.items():
        time_bands |= {component: found} if (found := denoiser.facts.get("time_bands")) else {}
        by_method.update(denoiser.facts.get("float_by_method", {}))
        products |= denoiser.facts.get("attention_products", {})
        gains |= denoiser.facts.get("gains", {})
        smoothed += len(denoiser.facts.get("smoothed", []))
        folded += sum(len(names) for names in denoiser.facts.get("folded", {}).values())
    calibration = model.facts.get("calibration", {})
    made, searched = calibration.get("calls_made"), calibration.get("sensitivity_calls", 0)
    saved = calibration.get("calls_saved")
    rows_made, rows_of_running = (
        sum(calibration[key].values()) if key in calibration else None for key in ("rows_made", "rows_of_running")
    )
    stays = model.facts.get("model", {}).get("left_in_float", {})
    data = {
        **summary(model),
        "recipe": model.recipe.to_dict(),
        "plan": layers,
        "float_by_method": dict(by_method),
        "weight_only": weight_only,
        "attention_products": products,
        "smoothed": smoothed,
        "folded": folded,
        "gains": gains,
        "time_bands": time_bands,
        "calls_made": made,
        "calls_saved": saved,
        "sensitivity_calls": searched,
        "left_in_float": stays,
        "rows_made": rows_made,
        "rows_of_running": rows_of_running,
    }
    text = table(rows, ("layer", "kind", "runs in", "weights", "scale", "zero point", "left in float because"))
    total = (
        f"\n{data['quantized']} of {data['layers']} layers in INT8, {100 * data['int8_share']:.1f} % of the "
        f"multiply-adds; {data['ratio']:.2f}x smaller; recipe {model.recipe.name}, arithmetic {model.recipe.arithmetic}"
    )
    if products:
        done = [name for name, reason in products.items() if not reason]
        total += f"\n{len(done)} of {len(products)} attentions multiply their matrices in 8 bits"
        total += "".join(f"; {name} does not: {reason}" for name, reason in products.items() if reason)
    if weight_only:
        total += f"\n{weight_only} more with weights in 8 bits and inputs in float"
    if by_method:
        total += "\nin float by the method: " + ", ".join(f"{count} {kind}" for kind, count in by_method.items())
    if smoothed:
        total += f"\n{smoothed} layers with smoothed inputs, {folded} of them by the layer in front"
    if gains:
        mean, largest = sum(gains.values()) / len(gains), max(gains.values(), key=abs)
        total += f"\ngain of {len(gains)} layers taken back: {mean:+.3%} in the mean, {largest:+.3%} at most"
    total += "".join(f"\n{name} is in float: {reason}" for name, reason in stays.items())
    total += "".join(f"\n{bands_words(found)}" for found in time_bands.values())
    if made is not None:
        total += f"\ncalibration: {made} calls of the network for pictures"
        total += f" ({saved} more saved: a picture is left once it has reached its time-step)" if saved else ""
        total += f", {searched} to find sensitive layers" if searched else ""
        if rows_made is not None:
            total += (
                f"\nin all {rows_made} rows through the denoisers, and {rows_of_running} if the pipeline were run for "
                "the same pictures; with guidance a call has two rows a picture"
            )
    show(args, data, text + total)


def span(values: list[float] | float | None, form: str) -> str:
    """A number, or the least and the largest of those of several bands of time-steps."""
    if values is None:
        return ""
    if not isinstance(values, list):
        return format(values, form)
    return f"{min(values):{form}} to {max(values):{form}}"


def modules_of(model: QuantizedModel) -> dict[str, nn.Module]:
    """The modules of all denoisers by the names that `QuantizedModel.plan` gives them."""
    several = len(model.denoisers) > 1
    return {
        f"{component}.{name}" if several else name: module
        for component, denoiser in model.denoisers.items()
        for name, module in denoiser.network.named_modules()
    }


def weight_bits(module: nn.Module | None) -> int | None:
    """Bits that each weight of a layer is held in; None if it has no tensor `weight`."""
    weight = getattr(module, "weight", None)
    return 8 * weight.element_size() if isinstance(weight, Tensor) else None
