"""What is known of a quantized model, as plain JSON data that travels with the artifact."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from torch import nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.errors import ArtifactError
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.unconditional import why_not_unconditional
from ptq4dm.quantization.attention_products import attention_plan, product_names
from ptq4dm.quantization.plan import ATTENTION, float_by_method
from ptq4dm.quantization.quantized_model import QuantizedDenoiser, tensor_bytes
from ptq4dm.ranges.range_table import RangeTable, summary_of

SHOWN_LAYERS = 6
OF_A_MODEL: Final = {"model": (dict,), "calibration": (dict,)}
OF_THE_FLOAT_MODEL: Final = {"name": (str,), "float_bytes": (int, float)}
OF_A_DENOISER: Final = {
    "activation_ranges": (list,),
    "attention_products": (dict,),
    "float_by_method": (dict,),
    "folded": (dict,),
    "gains": (dict,),
    "smoothed": (list,),
    "time_bands": (dict,),
}
"""Kinds of the facts that other parts rely on."""


def search_cost(denoisers: Iterable[QuantizedDenoiser]) -> dict[str, int]:
    """How many calls were made, beside those of the calibration, to find the sensitive layers."""
    return {"sensitivity_calls": sum(denoiser.facts["sensitivity_calls"] for denoiser in denoisers)}


def model_facts(networks: Mapping[str, nn.Module], pipeline: Pipeline | None) -> dict[str, Any]:
    """Name, class, parameters, bytes and fingerprint of the float model: its denoisers taken together."""
    classes = [type(network).__name__ for network in networks.values()]
    facts: dict[str, Any] = {
        "name": pipeline.name if pipeline else classes[0],
        "class": ", ".join(classes),
        "parameters": sum(value.numel() for network in networks.values() for value in network.parameters()),
        "float_bytes": sum(tensor_bytes(network) for network in networks.values()),
    }
    if pipeline is not None:
        facts["fingerprint"] = pipeline.fingerprint
        if not why_not_unconditional(pipeline.source):
            facts["picture_shape"] = list(pipeline.picture_shape)
    return facts


def require_facts(model: Any, denoisers: Mapping[str, Any], where: str) -> None:
    """Raise ArtifactError unless the facts of a saved model and of its denoisers are such as others rely on."""
    require_kinds(model, OF_A_MODEL, ("model",), f"{where}: facts")
    require_kinds(model["model"], OF_THE_FLOAT_MODEL, ("name", "float_bytes"), f"{where}: facts.model")
    for name, facts in denoisers.items():
        require_kinds(facts, OF_A_DENOISER, (), f"{where}: denoisers.{name}.facts")


def require_kinds(facts: Any, kinds: Mapping[str, tuple[type, ...]], needed: Sequence[str], where: str) -> None:
    """Raise ArtifactError at a fact of another kind, or one of `needed` that is not there."""
    if not isinstance(facts, Mapping):
        raise ArtifactError(f"{where} is a {type(facts).__name__}, not a table: quantize the model again")
    for key, accepted in kinds.items():
        if key not in facts and key in needed:
            raise ArtifactError(f"{where} lacks {key}: quantize the model again")
        if key in facts and (not isinstance(facts[key], accepted) or isinstance(facts[key], bool)):
            wanted = " or ".join(kind.__name__ for kind in accepted)
            raise ArtifactError(f"{where}.{key} = {facts[key]!r:.60} should be a {wanted}: quantize the model again")


def calibration_facts(calibration_set: CalibrationSet, num_train_timesteps: int) -> dict[str, Any]:
    """How the calibration set came about, with every drawn and visited time-step."""
    return {
        **calibration_set.facts,
        "fingerprint": calibration_set.fingerprint,
        "num_train_timesteps": num_train_timesteps,
        "drawn_timesteps": calibration_set.drawn.tolist(),
        "visited_timesteps": calibration_set.timesteps.tolist(),
    }


def product_facts(network: nn.Module, rounded: nn.Module) -> dict[str, Any]:
    """Which attentions of a network multiply in 8 bits (reason ""), why the others do not, and what stays in float."""
    done, plan = product_names(rounded), attention_plan(network)
    reasons = {
        name: "" if name in done else reason or "never called during calibration" for name, reason in plan.items()
    }
    by_method = {name: count for name, count in float_by_method(network).items() if name != ATTENTION}
    left = len(plan) - len(done)
    by_method |= ({ATTENTION: left} if left else {}) | ({"softmax": len(done)} if done else {})
    return {"attention_products": reasons, "float_by_method": by_method}


def range_facts(ranges: RangeTable, layers: Collection[str]) -> list[dict[str, Any]]:
    """Activation ranges against time-step, of those of `layers` whose range moves most relative to the one chosen.

    Of layers that share an input (the projections of the time embedding) the first stands for all.
    """
    rows, seen = [], set()
    for name, statistics in ranges.statistics.items():
        bands = summary_of(statistics) if name in layers else ()
        filled = [band for band in bands if band["min"] is not None and band["from"] is not None]
        if len(filled) < 2:
            continue
        chosen = ranges.ranges[name]
        row = {
            "layer": name,
            "t": [(band["from"] + band["to"]) / 2 for band in filled],
            "min": [band["min"] for band in filled],
            "max": [band["max"] for band in filled],
            "p01": [band["percentiles"]["1"] for band in filled],
            "p99": [band["percentiles"]["99"] for band in filled],
            "low": chosen.low,
            "high": chosen.high,
        }
        spread = (*row["min"], *row["max"])
        if spread in seen:
            continue
        seen.add(spread)
        widths = [high - low for low, high in zip(row["p01"], row["p99"])]
        rows.append((max(widths) / max(min(widths), 1e-12), row))
    rows.sort(key=lambda item: -item[0])
    return [row for _, row in rows[:SHOWN_LAYERS]]
