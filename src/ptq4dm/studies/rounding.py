"""Round what comes out of operations of a float network that have no INT8 form here, from outside.

A network is copied with a `Rounding` behind each operation of some kinds. It passes everything through until it has a
range, so that the same copy is first watched and then rounds.
"""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from ptq4dm.numerics import fake_quantize
from ptq4dm.pipelines.denoiser import TimedCall
from ptq4dm.pipelines.unconditional import config_of
from ptq4dm.quantization.layers_qdq import replaced
from ptq4dm.ranges.histograms import ONE_BAND
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import RangeRecipe


class Rounding(nn.Module):
    """Rounds to the 256 values of its range; before it has one it passes everything through, and shows it to `seen`
    as (batch, 1, values): an operation may be called with tensors of several shapes."""

    def __init__(self):
        super().__init__()
        self.chosen: InputRange | None = None
        self.seen = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x, rounded."""
        if self.chosen is not None:
            return rounded(x, self.chosen)
        self.seen(x.reshape(len(x), 1, -1))
        return x


class RoundedPart(nn.Module):
    """Rounds some of the channels of (batch, channels, ...): from `start` up to `stop`."""

    def __init__(self, start: int, stop: int):
        super().__init__()
        self.start, self.stop, self.rounding = start, stop, Rounding()

    def forward(self, x: Tensor) -> Tensor:
        """x, those channels rounded."""
        part = self.rounding(x[:, self.start : self.stop])
        return torch.cat([x[:, : self.start], part, x[:, self.stop :]], 1)


def rounded(x: Tensor, chosen: InputRange) -> Tensor:
    """x rounded to the nearest of the 256 values of a range."""
    scale, zero_point = (torch.tensor(float(value), device=x.device) for value in (chosen.scale, chosen.zero_point))
    return fake_quantize(x.float(), scale, zero_point).to(x.dtype)


Sites = dict[str, nn.Module]
"""By the name of a module of a network: what stands in its place."""


def behind(network: nn.Module, kinds: tuple[type, ...]) -> Sites:
    """A Rounding behind every module of these kinds."""
    found = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    return {name: nn.Sequential(module, Rounding()) for name, module in found.items()}


def silu(network: nn.Module) -> Sites:
    """Behind every SiLU."""
    return behind(network, (nn.SiLU,))


def normalisation(network: nn.Module) -> Sites:
    """Behind every group, layer and RMS norm."""
    return behind(network, (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, RMSNorm))


def projections(network: nn.Module) -> Sites:
    """Behind the queries, keys and values of every attention."""
    names = [f"{name}.{part}" for name in attentions(network) for part in ("to_q", "to_k", "to_v")]
    return {name: nn.Sequential(network.get_submodule(name), Rounding()) for name in names}


def output(network: nn.Module) -> Sites:
    """Behind the last convolution: the first half of what it gives where the network predicts variances too."""
    channels = predicted_channels(network)
    return {"conv_out": nn.Sequential(network.get_submodule("conv_out"), RoundedPart(0, channels))}


def variance(network: nn.Module) -> Sites:
    """Behind the last convolution, the variances; nothing where the network predicts none."""
    channels, layer = predicted_channels(network), network.get_submodule("conv_out")
    if config_of(network)["out_channels"] != 2 * channels:
        return {}
    return {"conv_out": nn.Sequential(layer, RoundedPart(channels, 2 * channels))}


def predicted_channels(network: nn.Module) -> int:
    """How many channels of the network's answer are those of the picture."""
    return int(config_of(network)["in_channels"])


def no_sites(network: nn.Module) -> Sites:
    """None: what is rounded lies inside the attentions."""
    return {}


def attentions(network: nn.Module) -> list[str]:
    """The names of the attentions."""
    return [name for name, module in network.named_modules() if isinstance(module, Attention)]


SITES: Final[dict[str, Callable[[nn.Module], Sites]]] = {
    "attention products": projections,
    "SiLU": silu,
    "softmax": no_sites,
    "normalisation": normalisation,
    "output ε": output,
    "variance Σ": variance,
}
"""The kinds of operations, each with the function that finds where they are."""
ON_PROBABILITIES: Final = ("attention products", "softmax")
"""The kinds for which attention probabilities are rounded."""


def has_sites(network: nn.Module, kind: str) -> bool:
    """Whether a network has operations of a kind."""
    return bool(SITES[kind](network)) or (kind in ON_PROBABILITIES and bool(attentions(network)))


def with_sites(network: nn.Module, kind: str) -> tuple[nn.Module, list[str]]:
    """A copy of a network with a Rounding at every site of a kind, and their names: none without such an operation."""
    copied = replaced(network, SITES[kind](network))
    if kind in ON_PROBABILITIES:
        for name in attentions(copied):
            round_probabilities(copied.get_submodule(name))
    return copied, [name for name, module in copied.named_modules() if isinstance(module, Rounding)]


def round_probabilities(attention: Any) -> None:
    """Put a Rounding behind the softmax of an attention, which is then computed step by step."""
    attention.set_processor(AttnProcessor())
    attention.probabilities = Rounding()
    attention.get_attention_scores = types.MethodType(rounded_scores, attention)


def rounded_scores(attention: Any, query: Tensor, key: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """The attention probabilities, rounded."""
    return attention.probabilities(Attention.get_attention_scores(attention, query, key, attention_mask))


def site_ranges(
    network: nn.Module, kind: str, calls: Sequence[TimedCall], recipe: RangeRecipe, shown: bool = False
) -> dict[str, InputRange]:
    """The range of each site of a kind, chosen on some calls of the float network; empty if there is no such site."""
    watched, names = with_sites(network, kind)
    if not names:
        return {}
    seen = {f"{name}.seen": name for name in names}
    table = choose_ranges(observe(watched, list(seen), calls, ONE_BAND, shown), recipe)
    return {seen[key]: chosen for key, chosen in table.ranges.items()}


def with_rounding(network: nn.Module, kind: str, ranges: Mapping[str, InputRange]) -> nn.Module:
    """A copy of a network (float, or with quantized layers) that rounds at the sites of a kind."""
    copied, names = with_sites(network, kind)
    set_ranges(copied, names, ranges)
    return copied


def set_ranges(network: nn.Module, names: Iterable[str], ranges: Mapping[str, InputRange]) -> None:
    """Give sites their ranges; one that was never reached keeps none."""
    for name in names:
        site = network.get_submodule(name)
        assert isinstance(site, Rounding)
        site.chosen = ranges.get(name)
