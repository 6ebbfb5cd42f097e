"""Round weights to INT8, each output channel's scale searched together with the limit on pairs of weights.

Engines without VNNI add the products of the input channels 2i and 2i+1 in int16. Weights are safe when the same-signed
sum of such a pair stays within `PAIR_LIMIT` (`numerics.pairs_are_safe`). For every candidate scale the weights are
rounded, pairs beyond the limit are moved to the nearest safe integers, and the scale with the least squared error
wins, per output channel. So a channel with one unlucky pair pays with a slightly larger scale or with one slightly
moved pair, whichever costs less.

Where the channels of a group are odd in number, engines unfold the kernel and pair the last channel of one tap with the
first of the next. There every weight stays within half the limit, so that any two are safe (`pairs_cross_taps`).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ptq4dm.errors import ModelError
from ptq4dm.numerics import PAIR_LIMIT, WEIGHT_MAX, pair_up

SMALLEST, LARGEST = 0.45, 127 / 64
"""Candidate scales as multiples of max|w| / 127: below 1 the largest weights are clipped; at the upper end every pair
is safe as it stands (7 bit)."""
COARSE, FINE = 18, 7
"""Candidates of the first round, and of the second between the neighbours of the best."""
EFFORT, MOST = 1 << 15, 256
"""A channel of few weights is a lottery that pays to play often: EFFORT / weights candidates, MOST at most."""
CHUNK = 1 << 16
"""Weights searched at once: small enough for the processor's cache, and for one thread."""


def pairs_cross_taps(layer: nn.Module) -> bool:
    """Whether engines pair weights of different taps of this layer: grouped, an odd number of channels in a group.

    A depthwise convolution with one output a channel has no pairs at all: engines run it by a kernel of its own. (A
    transposed one runs as a convolution with several outputs a channel.)
    """
    if not isinstance(layer, _ConvNd) or layer.groups == 1:
        return False
    depthwise = layer.in_channels == layer.groups == layer.out_channels and not layer.transposed
    return not depthwise and (layer.in_channels // layer.groups) % 2 == 1


@dataclass(frozen=True)
class Pairs:
    """Weights in pairs: `first` and `second` (rows, n), how much their errors count `first_cost`, `second_cost`."""

    first: Tensor
    second: Tensor
    first_cost: Tensor
    second_cost: Tensor


def quantize_weight(
    weight: Tensor,
    portable: bool = True,
    second_moment: Tensor | None = None,
    name: str = "a layer",
    any_pair: bool = False,
    bits: int = 8,
) -> tuple[Tensor, Tensor]:
    """Round `weight` (out, in / groups, *kernel) per output channel, symmetric: (int8 weight, float32 scale (out,)).

    real weight = scale * integer, integers in [-127, 127], or in fewer `bits`. portable: keep adjacent pairs within
    the limit, which those of fewer bits always are; any_pair: keep any two weights within it (`pairs_cross_taps`).
    second_moment: how much a squared error in each input channel counts, (in / groups,) or (out, in / groups), such as
    E[x_c**2]; None counts all alike. Raises ModelError, naming the layer, for weights that are not finite.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ModelError(f"the weight of {name} has NaN or infinite values: load the model again, or mend its file")
    if not weight.numel():
        return torch.zeros_like(weight, dtype=torch.int8), torch.ones(len(weight), device=weight.device)
    paired, costs = pair_up(weight.detach().float()), pair_up(relative_costs(weight, second_moment))
    top = largest_integer(bits)
    portable = portable and bits == 8
    bound = PAIR_LIMIT // 2 if portable and any_pair else top
    portable = portable and (any_pair or weight.shape[1] > 1)  # a depthwise layer has no pairs
    rows = max(1, CHUNK // paired[0].numel())

    def search(start: int) -> tuple[Tensor, Tensor]:
        return search_scales(
            split_pairs(paired[start : start + rows], costs[start : start + rows]), portable, bound, top
        )

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(search, range(0, len(paired), rows)))
    integers = torch.cat([part for part, _ in found]).reshape(len(paired), 2, -1, paired.shape[3]).transpose(1, 2)
    flat = integers.reshape(len(paired), -1, paired.shape[3])[:, : weight.shape[1]]
    return flat.reshape(weight.shape).contiguous(), torch.cat([scale for _, scale in found])


def largest_integer(bits: int) -> int:
    """The largest magnitude of a weight of so many bits: 127 of 8."""
    return WEIGHT_MAX >> (8 - bits)


def search_scales(
    pairs: Pairs, portable: bool, bound: int = WEIGHT_MAX, top: int = WEIGHT_MAX
) -> tuple[Tensor, Tensor]:
    """The int8 integers (rows, 2 n), first halves of the pairs before second ones, and the best scale (rows,).

    bound: the largest magnitude of an integer. top: the one that the largest weight has at the candidate scale 1.
    """
    largest = torch.maximum(pairs.first.abs().amax(1), pairs.second.abs().amax(1))
    tiny = torch.finfo(torch.float32).tiny
    base = torch.where(largest > 0, (largest / top).clamp(min=tiny), torch.ones_like(largest))
    upper = LARGEST if portable else 1.0
    coarse = max(COARSE, min(MOST, EFFORT // (2 * pairs.first.shape[1])))
    at_once = max(1, CHUNK // (2 * pairs.first.numel()))
    ratio = (upper / SMALLEST) ** (1 / (coarse - 1))
    best, least = base, torch.full_like(base, torch.inf)
    for factors in (
        [SMALLEST * ratio**index for index in range(coarse)],
        [ratio ** (index / (FINE + 1) * 2 - 1) for index in range(1, FINE + 1)],
    ):
        centre = best
        for some in torch.tensor(factors, dtype=base.dtype, device=base.device).unsqueeze(1).split(at_once):
            scale = (centre * some).clamp(min=tiny)
            error, index = (rounded(pairs, scale, portable, bound)[2] * (scale / base).square()).min(0)
            wins = error < least
            best = torch.where(wins, scale.gather(0, index.unsqueeze(0)).squeeze(0), best)
            least = torch.where(wins, error, least)
    best = torch.where(largest > 0, best, torch.ones_like(best))
    first, second, _ = rounded(pairs, best, portable, bound)
    return torch.cat([first, second], dim=1).to(torch.int8), best


def rounded(pairs: Pairs, scale: Tensor, portable: bool, bound: int = WEIGHT_MAX) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest (safe) integers (..., rows, n) at `scale` (..., rows), first and second, and the weighted error
    (..., rows), in steps."""
    column = scale.unsqueeze(-1)
    a, b = pairs.first / column, pairs.second / column
    p = a.round().clamp_(-bound, bound)
    q = b.round().clamp_(-bound, bound)
    if portable:
        p, q = nearest_safe(a, b, p, q, pairs)
    error = (p - a).square_().mul_(pairs.first_cost).add_((q - b).square_().mul_(pairs.second_cost))
    return p, q, error.sum(-1)


def nearest_safe(a: Tensor, b: Tensor, p: Tensor, q: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The safe integers nearest to the real pair (a, b), weighted by the costs; `p`, `q` are its roundings, and are
    written into.

    Exact: opposite signs are always safe, and for equal signs, with separable convex costs and one limit on the sum,
    the best integers lie on p + q = +-128, where the cost is a parabola in p: its vertex, rounded, is the best.
    """
    sums = (p + q).view(-1)
    over = (sums.abs() > PAIR_LIMIT).nonzero().squeeze(1)  # few of all, at the scales that win
    if not len(over):
        return p, q
    sign, cost = sums[over].sign(), over % pairs.first.numel()
    first, second = pairs.first_cost.view(-1)[cost], pairs.second_cost.view(-1)[cost]
    own = a.view(-1)[over].mul_(sign)
    vertex = b.view(-1)[over].mul_(sign).neg_().add_(PAIR_LIMIT).sub_(own).mul_(1 - first / (first + second)).add_(own)
    moved = vertex.round_().clamp_(PAIR_LIMIT - WEIGHT_MAX, WEIGHT_MAX)
    p.view(-1)[over] = moved * sign
    q.view(-1)[over] = (PAIR_LIMIT - moved).mul_(sign)
    return p, q


def split_pairs(paired: Tensor, costs: Tensor) -> Pairs:
    """(rows, pairs, 2, taps) of weights and (rows, pairs, 2, 1) of costs as flat halves."""
    parts = (paired[:, :, 0], paired[:, :, 1], *(costs[:, :, side].expand_as(paired[:, :, 0]) for side in (0, 1)))
    return Pairs(*(part.reshape(len(paired), -1).contiguous() for part in parts))


def relative_costs(weight: Tensor, second_moment: Tensor | None) -> Tensor:
    """The cost of an error per input channel as (out, in / groups, 1), of mean 1 and at least 1e-6."""
    moment = torch.ones(1) if second_moment is None else second_moment.clamp(min=0)
    moment = moment.to(weight.device, torch.float64).expand(weight.shape[:2])
    mean = moment.mean(dim=1, keepdim=True)
    relative = torch.where(mean > 0, moment / mean.clamp(min=1e-300), torch.ones_like(moment))
    return relative.clamp(min=1e-6).float().unsqueeze(2)
