"""Show what an artifact holds: layers, ranges, recipe, calibration."""

import argparse
from collections import Counter

from ptq4dm.cli.options import add_json, show, table
from ptq4dm.quantization.artifact import load
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.summary import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("model", help="an artifact's folder")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print the layers and the totals."""
    model = load(args.model)
    modules = dict(model.network.named_modules())
    rows, layers = [], []
    for layer in model.plan:
        module = modules.get(f"{layer.name}.layer", modules.get(layer.name))  # `.layer`: its output is rounded too
        held = isinstance(module, QuantizedLayer)
        scale = float(module.input_scale) if held else None
        zero_point = int(module.input_zero_point) if held else None
        layers.append({"name": layer.name, "kind": layer.kind, "quantized": layer.quantized, "reason": layer.reason,
                       "input_scale": scale, "input_zero_point": zero_point})  # fmt: skip
        rows.append((layer.name, layer.kind, "INT8" if held else "float",
                     f"{scale:.3g}" if scale is not None else "", "" if zero_point is None else zero_point,
                     layer.reason))  # fmt: skip
    by_method: Counter[str] = Counter()
    smoothed = folded = 0
    for denoiser in model.denoisers.values():
        by_method.update(denoiser.facts.get("float_by_method", {}))
        smoothed += len(denoiser.facts.get("smoothed", []))
        folded += sum(len(names) for names in denoiser.facts.get("folded", {}).values())
    calibration = model.facts.get("calibration", {})
    made, searched = calibration.get("calls_made"), calibration.get("sensitivity_calls", 0)
    data = {
        **summary(model),
        "recipe": model.recipe.to_dict(),
        "plan": layers,
        "float_by_method": dict(by_method),
        "smoothed": smoothed,
        "folded": folded,
        "calls_made": made,
        "sensitivity_calls": searched,
    }
    text = table(rows, ("layer", "kind", "runs in", "scale", "zero point", "left in float because"))
    total = (
        f"\n{data['quantized']} of {data['layers']} layers in INT8, {100 * data['int8_share']:.1f} % of the "
        f"multiply-adds; {data['ratio']:.2f}x smaller; recipe {model.recipe.name}, arithmetic {model.recipe.arithmetic}"
    )
    if by_method:
        total += "\nin float by the method: " + ", ".join(f"{count} {kind}" for kind, count in by_method.items())
    if smoothed:
        total += f"\n{smoothed} layers with smoothed inputs, {folded} of them by the layer in front"
    if made is not None:
        total += f"\ncalibration: {made} calls of the network for pictures"
        total += f", {searched} to find sensitive layers" if searched else ""
    show(args, data, text + total)
