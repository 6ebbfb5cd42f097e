"""Tables of the page: what was measured, what stayed in float, what really ran."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptq4dm.report.words import count, decibels, large, megabytes, milliseconds, percent, plural, signed, times

Rows = list[list[str]]
FIGURES: tuple[tuple[str, str, str, str, Callable[[Any], str]], ...] = (
    ("relative L2 of a call", "call", "relative_l2_mean", "relative_l2_mean", percent),
    ("PSNR of a call", "call", "psnr_mean", "psnr_mean", decibels),
    ("PSNR of a picture", "pictures", "psnr_mean", "pictures_psnr_mean", decibels),
)
"""Name, level, key, key of its aim and floor, how it is shown."""


@dataclass(frozen=True)
class Measure:
    """One measured figure. ok: whether it keeps its floor, None if it has none."""

    name: str
    value: str
    aim: str
    floor: str
    ok: bool | None


def fidelity_measures(fidelity: Mapping[str, Any]) -> list[Measure]:
    """The figures of one call and of the pictures, as deployed, with aim and floor."""
    aims, floors = fidelity.get("aims") or {}, fidelity.get("floors") or {}
    rows = []
    for name, level, key, goal, show in FIGURES:
        found = fidelity.get(level) or {}
        if key not in found:
            continue
        value, aim, floor = found[key], aims.get(goal), floors.get(goal)
        smaller = key == "relative_l2_mean"
        ok = None if floor is None else value is None or (value <= floor if smaller else value >= floor)
        sign = "at most " if smaller else "at least "
        aim, floor = [sign + show(bound) if bound is not None else "" for bound in (aim, floor)]
        low, high = found.get(key.replace("mean", "interval")) or (None, None)
        shown = show(value) + (f" ({between(low, high, show)})" if low is not None else "")
        rows.append(Measure(name, shown, aim, floor, ok))
    pictures = fidelity.get("pictures") or {}
    if pictures.get("perceptual_mean") is not None:
        name = pictures.get("perceptual_name") or "perceptual distance"
        rows.append(Measure(name, f"{pictures['perceptual_mean']:.4f}", "", "", None))
    return rows


def speed_rows(speed: Mapping[str, Any]) -> Rows:
    """engine, precision, median, spread, against eager."""
    return [
        [
            row["engine"],
            row["precision"],
            milliseconds(row["seconds_median"]),
            between(row.get("seconds_low"), row.get("seconds_high"), milliseconds),
            times(row["ratio_to_eager"]) if row.get("ratio_to_eager") else "",
        ]
        for row in speed.get("rows") or []
    ]


def ratio_rows(speed: Mapping[str, Any]) -> Rows:
    """baseline, ratio, its interval, the share of the predicted limit that is reached (compiled engines only)."""
    limit = (speed.get("predicted_limit") or {}).get("limit")
    return [
        [
            f"INT8 {ratio['name']}",
            times(ratio["value"]),
            ratio_interval(ratio),
            percent(ratio["value"] / limit) if limit and ratio.get("baseline") != "eager" else "",
        ]
        for ratio in speed.get("ratios") or []
    ]


def memory_rows(memory: Mapping[str, Any] | None) -> Rows:
    """network and engine, rise of the resident memory; or the GPU's, which is named then."""
    return [
        [f"{row['name']} on {row['device']}" if row.get("device") else row["name"], megabytes(row["peak_bytes"])]
        for row in (memory or {}).get("rows") or []
    ]


def distribution_rows(distribution: Mapping[str, Any]) -> Rows:
    """measure, float, INT8, difference, its interval, what it says."""
    return [
        [
            row["measure"],
            f"{row['float']:.4g}",
            f"{row['int8']:.4g}",
            signed(row["difference"]),
            between(row.get("low"), row.get("high"), signed),
            reading(row.get("low"), row.get("high"), row.get("detectable")),
        ]
        for row in distribution.get("rows") or []
    ]


def reading(low: float | None, high: float | None, detectable: float | None) -> str:
    """What the interval of a difference says."""
    if low is None or high is None:
        return ""
    seen = "no difference seen" if low <= 0 <= high else "a difference"
    return seen + (f" (smallest detectable: {detectable:.2g})" if detectable is not None else "")


def float_rows(plan: Sequence[Mapping[str, Any]]) -> Rows:
    """Layers left in float by reason: reason, how many, kinds, names, share of the multiply-adds."""
    total = sum(layer.get("macs") or 0 for layer in plan)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for layer in plan:
        if not layer["quantized"]:
            groups.setdefault(layer["reason"], []).append(layer)
    return [
        [
            reason,
            count(len(layers)),
            ", ".join(sorted({layer["kind"] for layer in layers})),
            names([layer["name"] for layer in layers]),
            percent(sum(layer.get("macs") or 0 for layer in layers) / total, 2) if total else "",
        ]
        for reason, layers in groups.items()
    ]


def plan_words(plan: Sequence[Mapping[str, Any]]) -> str:
    """How much of the network is quantized, in a sentence."""
    quantized = [layer for layer in plan if layer["quantized"]]
    total = sum(layer.get("macs") or 0 for layer in plan)
    words = f"{count(len(quantized))} of {count(len(plan))} layers with weights are quantized"
    if total:
        share = sum(layer.get("macs") or 0 for layer in quantized) / total
        words += f"; they do {percent(share, 4)} of the {large(total)} multiply-adds of a call"
    return words + "."


def executed_layers(executed: Any) -> list[Mapping[str, Any]]:
    """The layers of the section `executed`, in whichever of its two forms."""
    return list((executed.get("layers") or []) if isinstance(executed, Mapping) else executed or [])


def executed_rows(layers: Sequence[Mapping[str, Any]]) -> Rows:
    """What the engine ran, by node type, primitive and precision: type, primitive, precision, how many, INT8 or not."""
    groups: dict[tuple[str, str, str, bool], int] = {}
    for layer in layers:
        key = (layer["type"], layer.get("primitive") or "", layer.get("precision") or "", bool(layer["int8"]))
        groups[key] = groups.get(key, 0) + 1
    return [
        [kind, primitive, precision, count(number), "INT8" if int8 else "float"]
        for (kind, primitive, precision, int8), number in sorted(groups.items(), key=lambda item: -item[1])
    ]


def choice_rows(layers: Sequence[Mapping[str, Any]]) -> Rows:
    """Layer by layer, if any was timed: what runs, its milliseconds in INT8 and in float, the kernel's tile, why."""
    if all(layer.get("int8_ms") is None for layer in layers):
        return []
    return [
        [
            layer["layer"],
            layer["type"],
            *("" if layer.get(key) is None else f"{layer[key]:.4f}" for key in ("int8_ms", "float_ms")),
            layer.get("tile") or "",
            layer.get("reason") or "",
        ]
        for layer in layers
    ]


def untimed_words(layers: Sequence[Mapping[str, Any]]) -> str:
    """Why no layer was timed, each reason with how many it holds for; "" if one was, or nothing is said."""
    if any(layer.get("int8_ms") is not None for layer in layers):
        return ""
    reasons = Counter(str(layer["reason"]) for layer in layers if layer.get("reason"))
    return "; ".join(f"{reason} ({plural(number, 'layer')})" for reason, number in reasons.items())


def between(low: float | None, high: float | None, show: Any) -> str:
    """ "54.0 ms to 57.0 ms", or nothing if it is not known."""
    return "" if low is None or high is None else f"{show(low)} to {show(high)}"


def ratio_interval(ratio: Mapping[str, Any]) -> str:
    """ "2.10× to 2.25× (96.1 %)": the interval of a ratio of times, with its confidence where that is known."""
    interval = between(ratio.get("low"), ratio.get("high"), times)
    confidence = ratio.get("confidence")
    return f"{interval} ({percent(confidence)})" if interval and confidence is not None else interval


def names(items: Sequence[str], shown: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
