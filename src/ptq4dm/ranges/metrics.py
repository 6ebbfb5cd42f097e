"""How far a quantized tensor is from the float one, and which range that asks for.

A metric is a function ``metric(values, weights, quantized) -> loss``: `values` (bins,) rising, their shares `weights`
(bins,) that sum to 1, and `quantized` (candidates, bins), what each candidate makes of the values; it returns
(candidates,), the smaller the better. A range rule names its range directly, without a search. Users may pass either.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptq4dm.errors import RecipeError
from ptq4dm.ranges.mixture import Mixture

Metric = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class RangeRule:
    """A rule that names a range: `choose(mixture) -> (low, high)`."""

    choose: Callable[[Mixture], tuple[float, float]]


def mse() -> Metric:
    """Mean squared error (Shang et al., "Post-training Quantization on Diffusion Models", CVPR 2023, Table 5: best)."""
    return lambda values, weights, quantized: (quantized - values).square_() @ weights


def l1() -> Metric:
    """Mean absolute error."""
    return lambda values, weights, quantized: (quantized - values).abs_() @ weights


def lp(p: float = 2.4) -> Metric:
    """Mean of |error|**p; 2.4 is what the paper's released code calls MSE."""
    if not (isinstance(p, int | float) and 0 < p < 100):
        raise RecipeError(f"metric lp: p = {p!r} should be a number above 0, such as 2.4")
    return lambda values, weights, quantized: (quantized - values).abs_().pow_(p) @ weights


def cosine() -> Metric:
    """One minus the cosine of the angle between the two tensors. Blind to their length."""

    def loss(values: Tensor, weights: Tensor, quantized: Tensor) -> Tensor:
        values, weights, quantized = values.double(), weights.double(), quantized.double()  # 1 - cos cancels digits
        product = quantized @ (values * weights)
        length = ((quantized.square() @ weights) * (values.square() @ weights)).sqrt()
        return torch.where(length > 0, 1 - product / length.clamp(min=torch.finfo(length.dtype).tiny), 1.0)

    return loss


def kl() -> Metric:
    """Kullback-Leibler divergence of the histogram from what remains of it after quantization.

    As Migacz, "8-bit Inference with TensorRT" (GTC 2017): the mass of each quantized level is spread evenly over the
    non-empty bins that were rounded (or clipped) to it.
    """

    def loss(values: Tensor, weights: Tensor, quantized: Tensor) -> Tensor:
        level = torch.zeros(quantized.shape, dtype=torch.int64)
        level[:, 1:] = (quantized.diff(dim=1) != 0).cumsum(1)
        share = weights.expand_as(quantized)
        mass = torch.zeros_like(quantized).scatter_add_(1, level, share)
        bins = torch.zeros_like(quantized).scatter_add_(1, level, torch.ones_like(quantized))
        spread = (mass / bins.clamp(min=1)).gather(1, level)
        return torch.special.xlogy(share, share / spread).sum(1)

    return loss


def minmax() -> RangeRule:
    """From the smallest value to the largest."""
    return RangeRule(lambda mixture: (mixture.low, mixture.high))


def percentile(percent: float = 99.99) -> RangeRule:
    """The range that leaves out (100 - percent) / 2 percent of the values at each end."""
    if not (isinstance(percent, int | float) and 50 < percent <= 100):
        raise RecipeError(f"metric percentile: percent = {percent!r} should be above 50 and at most 100, such as 99.99")
    tail = (100 - percent) / 200
    return RangeRule(lambda mixture: (mixture.quantile(tail), mixture.quantile(1 - tail)))


METRICS: dict[str, Callable[..., Metric | RangeRule]] = {
    "mse": mse,
    "l1": l1,
    "lp": lp,
    "cosine": cosine,
    "kl": kl,
    "percentile": percentile,
    "minmax": minmax,
}


def make_metric(metric: "str | Metric | RangeRule", options: Mapping[str, Any]) -> Metric | RangeRule:
    """The metric or rule of that name with its options, or a callable as it is. Raises RecipeError."""
    if isinstance(metric, RangeRule):
        metric, given = "", metric
    elif callable(metric):
        given = metric
    elif metric in METRICS:
        factory = METRICS[metric]
        accepted = factory.__code__.co_varnames[: factory.__code__.co_argcount]
        for key in options:
            if key not in accepted:
                known = ", ".join(accepted) or "none"
                raise RecipeError(f"metric {metric}: unknown option {key!r}; accepted: {known}")
        return factory(**options)
    else:
        raise RecipeError(f"unknown metric {metric!r}: accepted are {', '.join(METRICS)}, or a callable")
    if options:
        raise RecipeError(f"metric_options {dict(options)!r} are given, but a callable metric has no options")
    return given
