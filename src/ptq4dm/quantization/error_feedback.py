"""Round weights one input after the other; what each rounding does to the output is taken back by those still to come.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023, arXiv
2210.17323, in the form without an inverse that Chee et al., "QuIP: 2-Bit Quantization of Large Language
Models With Guarantees", NeurIPS 2023, arXiv 2307.13304, prove equal to it: with H = R Rᵀ the second moments of the
layer's inputs, R upper triangular, the weight of input k is rounded after the errors e_j = w_j - q_j of the inputs j
before it are added to it, each times R_jk / R_kk. Here the scales stay those of `weights.quantize_weight`, and the
integers stay within its limit on pairs: the second weight of a pair is bounded by the first. Inputs are taken less
their mean, since the bias takes the mean of the error back. What is found is the start of `descent`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ptq4dm.numerics import PAIR_LIMIT, WEIGHT_MAX
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.descent import descended, within
from ptq4dm.quantization.input_moments import InputMoments, Rounded, moments_of_sets
from ptq4dm.quantization.layers import weight_of
from ptq4dm.quantization.weights import largest_integer
from ptq4dm.recipe import WeightRecipe

DAMPING = 1e-3
"""What is added to the diagonal of H, of its mean: inputs that never vary are rounded to the nearest."""
BLOCK = 128
"""Inputs after which the weights behind are brought up to date at once, as in the paper."""


Job = tuple[Mapping[str, Rounded], WeightRecipe]
"""Layers, and how their weights are rounded."""
RoundAll = Callable[[nn.Module, Sequence[Job], Sequence[Call], bool], None]
"""What does as `round_all`."""


def round_again(
    network: nn.Module,
    layers: Mapping[str, Rounded],
    calls: Sequence[Call],
    recipe: WeightRecipe,
    shown: bool = False,
) -> None:
    """Choose the integers of `layers` again, with error feedback, where their inputs can be watched.

    network: the float network; calls: of its calibration; without any, all stays as it is.
    """
    round_all(network, [(layers, recipe)], calls, shown)


@torch.no_grad()
def round_all(network: nn.Module, jobs: Sequence[Job], calls: Sequence[Call], shown: bool = False) -> None:
    """`round_again` for several sets of layers, each as if it were alone, with their inputs watched together."""
    for place, name, moments in moments_of_sets(network, [item for item, _ in jobs], calls, shown) if calls else ():
        layers, recipe = jobs[place]
        layer = layers[name]
        real = real_weights(network.get_submodule(name), layer)
        bias = network.get_submodule(name).bias if recipe.bias_correction else None
        second = moments.products / moments.count if bias is None else covariance(moments)
        integers = best_integers(real, second, layer.weight.shape[1], recipe.portable, largest_integer(recipe.bits))
        layer.weight.copy_(integers.view(layer.weight.shape))
        if isinstance(bias, Tensor):
            shift = (real @ moments.real - integers @ moments.rounded) / moments.count
            scale = layer.output_scale(torch.float64)
            layer.bias = (bias.detach().double() + scale * shift.to(scale.device)).float()


def real_weights(source: nn.Module, layer: Rounded) -> Tensor:
    """The float weights (smoothed) in steps of the integers, (out, K) float64, on the CPU."""
    weight = weight_of(source).detach().double()
    if layer.smoothing is not None:
        weight = weight * layer.smoothing.double().view(-1, *[1] * (weight.dim() - 2))
    return (weight / layer.weight_scale.double().view(-1, *[1] * (weight.dim() - 1))).flatten(1).cpu()


def covariance(moments: InputMoments) -> Tensor:
    """The covariance of the rounded inputs, (K, K)."""
    mean = moments.rounded / moments.count
    return moments.products / moments.count - torch.outer(mean, mean)


def best_integers(
    weight: Tensor, second_moment: Tensor, channels: int, portable: bool, largest: int = WEIGHT_MAX
) -> Tensor:
    """Integers (out, K) float64 for real weights (out, K) in steps, K = (channels, taps): each row's squared error of
    the output is small for inputs of these second moments (K, K). portable: see `numerics.pairs_are_safe`. largest: of
    an integer, in magnitude."""
    order = torch.arange(weight.shape[1]).view(channels, -1).T.reshape(-1)  # pairs of channels stand side by side
    real, (second, factor) = weight[:, order], damped(second_moment[order][:, order])
    integers = torch.empty_like(weight)
    rounded = with_feedback(real, carried(factor), channels, portable, largest)
    integers[:, order] = descended(real, rounded, second, channels, portable, largest)
    return integers


def with_feedback(weight: Tensor, weighted: Tensor, channels: int, portable: bool, largest: int = WEIGHT_MAX) -> Tensor:
    """`best_integers` by error feedback alone, for inputs in the order (taps, channels). weighted: of `carried`."""
    factors = weighted.numpy()
    wanted = np.ascontiguousarray(weight.numpy().T)  # one input's weights side by side, as they are rounded
    real, integers, width = wanted.copy(), np.empty_like(wanted), len(wanted)
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        for j in range(start, end):
            own, low, high = real[j], -largest, largest
            if portable and j % channels % 2:
                first = integers[j - 1]
                low, high = np.maximum(-PAIR_LIMIT - first, low), np.minimum(PAIR_LIMIT - first, high)
            elif portable and j % channels + 1 < channels:  # of two channels side by side the first leaves room
                own = with_room(own, real[j + 1])
            integers[j] = within(np.rint(own), low, high)
            real[j + 1 : end] += np.multiply.outer(factors[j, j + 1 : end], wanted[j] - integers[j])
        real[end:] += factors[start:end, end:].T @ (wanted - integers)[start:end]
    return torch.from_numpy(integers.T.copy())


def carried(factor: Tensor) -> Tensor:
    """What of the error of input j the weight of a later input k takes on, R_jk / R_kk, where the second moments are
    R Rᵀ with R upper triangular. The squared error of the output is that of eᵀ R, whose entry k is R_kk times the
    sum of e_k and of the earlier e_j R_jk / R_kk."""
    return factor / factor.diagonal()


def damped(second: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments with their diagonal raised, and R: their Cholesky factor with rows and columns in reverse.

    The sums behind them are of float32: where inputs hardly vary around a large mean, what is left of them once the
    mean is taken off may be rounding alone, and not of any R Rᵀ. Then the diagonal is raised above that rounding, and
    on until a factor is found.
    """
    assert bool(second.isfinite().all())  # calibration refuses inputs that are not
    lowest = torch.finfo(torch.float32)
    damping = float(DAMPING * second.diagonal().mean().clamp(min=lowest.tiny))
    unit = torch.eye(len(second), dtype=second.dtype)
    while True:
        raised = second + damping * unit
        factor, failed_at = torch.linalg.cholesky_ex(raised.flip(0, 1))
        if not failed_at:
            return raised, factor.flip(0, 1)
        damping = max(10 * damping, lowest.eps * float(second.abs().max()))


def with_room(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The first of two weights, moved by half of what they are beyond the limit together."""
    total = first + second
    beyond = np.maximum(np.abs(total) - PAIR_LIMIT, 0) * np.sign(total)
    return np.where(first * second > 0, first - beyond / 2, first)
