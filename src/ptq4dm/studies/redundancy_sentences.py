"""What the rows of `redundancy` say: a sentence for each, computed from its facts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ptq4dm.studies.store import Row

NOISE: Final = "signal to noise of layers"
GROWTH: Final = "growth along the trajectory"
SHARES: Final = "share of each layer"
NEAR: Final = 0.1
"""Shares that sum up to 1 within it are said to add up."""


def redundancy_sentence(rows: Sequence[Row]) -> str:
    """The sentences of all rows."""
    return " ".join(SENTENCES[row["variant"]](row["facts"]) for row in rows if "facts" in row)


def noise_sentence(facts: Mapping[str, Any]) -> str:
    """The middle and the worst of the layers' ratios."""
    layers = facts["layers"]
    inputs, outputs = ([row[key] for row in layers if row[key] is not None] for key in ("input_all", "output_all"))
    if not inputs or not outputs:
        return "No layer has any noise of rounding."
    spread = [spread_of(row["output"]) for row in layers]
    worst, least = layers[0], worst_step(layers[0]["output"], facts["t"])
    return (
        f"Half of the {len(layers)} layers have {np.median(inputs):.1f} dB or more of signal over quantization noise "
        f"in their input and {np.median(outputs):.1f} dB in their output (8 bits give a uniform signal 48 dB); the "
        f"least is the output of {worst['layer']}, {worst['output_all']:.1f} dB over all time-steps and {least[1]:.1f} "
        f"dB at t = {least[0]:g}. The median layer's output moves by {np.median(spread):.1f} dB over the time-steps."
    )


def growth_sentence(facts: Mapping[str, Any]) -> str:
    """Where the error starts, where it ends, and how that compares with a single call."""
    along, call, end = facts["x_t"]["mean"], float(np.mean(facts["call"]["mean"])), facts["picture"]["mean"]
    if not call:
        return "No call differs from the float network's."
    grown = f"grows from {100 * along[1]:.2g} % after the first step to " if len(along) > 1 else "is "
    late = next((index for index, value in enumerate(along) if value >= max(along) / 2), 0)
    return (
        f"Walking by itself, the error of x_t {grown}{100 * along[-1]:.2g} % before the last, and the picture is "
        f"{100 * end:.2g} % off, {end / call:.2g} times the mean error of a single call ({100 * call:.2g} %); half of "
        f"the largest error of x_t is there after {late} of {len(along)} steps."
    )


def share_sentence(facts: Mapping[str, Any]) -> str:
    """Which layers dominate, and whether errors add up."""
    layers, total = facts["layers"], facts["additivity"]
    if not total:
        return "No layer makes any error."
    first, left = layers[0], sum(row["share"] for row in layers if row["left_in_float"])
    makes = "layer makes" if facts["half"] == 1 else "layers make"
    sentence = (
        f"{facts['half']} of {len(layers)} {makes} half of the squared error; {first['layer']} makes most, "
        f"alone {first['share']:.0%} of that of all together, for {first['macs']:.1%} of the multiply-adds"
    )
    if left:
        sentence += f", and the layers that the default recipe leaves in float make {left:.0%}"
    return (
        f"{sentence}. Alone, layers make {total:.2f} times the squared error of all together: {addition_words(total)}."
    )


def addition_words(total: float) -> str:
    """What a sum of shares says."""
    if abs(total - 1) <= NEAR:
        return f"within {NEAR:.0%} they add up as independent errors do"
    return "together they partly cancel" if total > 1 else "together they reinforce each other"


def spread_of(values: Sequence[float | None]) -> float:
    """From the smallest to the largest ratio over the time-steps."""
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0


def worst_step(values: Sequence[float | None], t: Sequence[float]) -> tuple[float, float]:
    """The time-step with the smallest ratio, and that ratio."""
    return min(
        ((at, value) for at, value in zip(t, values, strict=True) if value is not None), key=lambda pair: pair[1]
    )


SENTENCES: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    NOISE: noise_sentence,
    GROWTH: growth_sentence,
    SHARES: share_sentence,
}
