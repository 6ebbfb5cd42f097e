"""Search the range of an activation: both ends are clipped so that the metric is least.

Coarse to fine over pairs (low, high) that hold 0; every candidate is a real pair of a scale and an integer zero point,
so what is measured is what will run.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq4dm.errors import RecipeError
from ptq4dm.numerics import ACTIVATION_MAX, asymmetric_params, fake_quantize
from ptq4dm.ranges.metrics import Metric, RangeRule, mse
from ptq4dm.ranges.mixture import Mixture

RATIO = 0.8
"""Neighbours in the coarse grid of clipped ends."""
COARSE = 24
"""Ends tried at first: from the extreme down to RATIO**COARSE of it (0.5 %); the fine rounds may go lower."""
FINE = 9
ROUNDS = 5
BINS_A_STEP = 16
"""How many histogram bins a quantization step should span for the error inside a bin not to matter."""
BUDGET = 1 << 19
"""Values evaluated at once: 2 MB, which stay in a cache; with 16 MB the search takes four times as long."""


@dataclass(frozen=True)
class InputRange:
    """How one activation is quantized: real = scale * (q - zero_point), q in [0, levels]; [low, high] is the range that
    this covers; loss: the metric there."""

    scale: float
    zero_point: int
    low: float
    high: float
    loss: float


def search_range(mixture: Mixture, metric: Metric | RangeRule, levels: int = ACTIVATION_MAX) -> InputRange:
    """The scale and zero point with the least loss (for a rule, those of its range). `levels` is 2**bits - 1.

    The scale is never 0: an activation that is always 0 gets scale 1.
    """
    if isinstance(metric, RangeRule) or mixture.low == mixture.high == 0:
        low, high = metric.choose(mixture) if isinstance(metric, RangeRule) else (0.0, 0.0)
        scale, zero_point = asymmetric_params(torch.tensor([low]), torch.tensor([high]), levels)
        return best_of(mixture, scale, zero_point, mse(), levels)
    fractions = RATIO ** torch.arange(COARSE + 1, dtype=torch.float32)
    low, high = (end * fractions if end else torch.zeros(1) for end in (min(mixture.low, 0.0), max(mixture.high, 0.0)))
    low, high = pairs(low, high)
    best = best_of(mixture, *asymmetric_params(low, high, levels), metric, levels)
    step = -math.log(RATIO)
    for _ in range(ROUNDS):
        scale = best.scale * torch.exp(torch.linspace(-step, step, FINE))
        shift = torch.linspace(-1, 1, FINE) * max(1.0, step * levels / 4)
        zero_point = torch.unique((best.zero_point + shift).round().clamp(0, levels))
        scale, zero_point = pairs(scale, zero_point)
        scale = torch.cat([torch.tensor([best.scale]), scale])  # the best so far comes first, so that it wins a tie
        zero_point = torch.cat([torch.tensor([float(best.zero_point)]), zero_point])
        best = best_of(finer(mixture, best.scale), scale, zero_point, metric, levels)
        step /= 3
    return best


def best_of(mixture: Mixture, scale: Tensor, zero_point: Tensor, metric: Metric, levels: int) -> InputRange:
    """The candidate, of (candidates,) scales and zero points, with the least loss; the first one on a tie."""
    values, weights = mixture.values.float(), mixture.weights.float()
    losses = []
    for s, z in zip(*(part.split(max(1, BUDGET // len(values))) for part in (scale, zero_point)), strict=True):
        quantized = fake_quantize(values, s.unsqueeze(1), z.unsqueeze(1), 0, levels)
        losses.append(checked_loss(metric(values, weights, quantized), len(s)))
    loss = torch.cat(losses)
    index = int(loss.argmin())
    s, z = float(scale[index]), int(zero_point[index])
    return InputRange(s, z, -z * s, (levels - z) * s, float(loss[index]))


def checked_loss(loss: object, candidates: int) -> Tensor:
    """Refuse what a user's metric must not return: anything but one finite number a candidate."""
    if not isinstance(loss, Tensor) or loss.shape != (candidates,) or not bool(torch.isfinite(loss).all()):
        got = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise RecipeError(f"the metric should return {candidates} finite losses, one a candidate; it returned {got}")
    return loss.detach()


def finer(mixture: Mixture, scale: float) -> Mixture:
    """The mixture with bins split until a step of `scale` spans BINS_A_STEP of them (16 parts at most)."""
    return mixture.split(max(1, min(16, math.ceil(BINS_A_STEP * mixture.width / scale))))


def pairs(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of an element of `first` and one of `second`."""
    rows, columns = torch.meshgrid(first, second, indexing="ij")
    return rows.flatten(), columns.flatten()
