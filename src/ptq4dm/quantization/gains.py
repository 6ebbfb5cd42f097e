"""Scales with which the layers of a quantized network answer as much as those of the float one: none a little less.

The range of an input that loses least squared error cuts the largest values, so the error of a rounded input runs
against the input, and the layer answers with (1 + g) of what it should, g below 0. What the layers before it have got
wrong does the same: it adds to the spread that a normalisation divides by. It is a few ten-thousandths a layer, hardly
seen in the squared error; but it has the same sign in all layers, where noise averages out. With y a layer's answer in
the float network, and d what it is away from that in the quantized network at the same call, about their means::

    g = E[d y] / E[y²]

and the layer's scales are divided by 1 + g; the mean of d is taken back by the bias. A layer's d hangs on how those
before it have been corrected, so they are, while the calls go through: as soon as a layer has answered, it is set by
what is known of it so far, and answers again. (Measuring all layers and then correcting all does not settle: each takes
back what those before it take back too.)

That what loses least squared error attenuates is known of regression on inputs with errors: Fuller, "Measurement Error
Models", Wiley, 1987, Section 1.1. Biases set layer after layer in the rounded network: Nagel et al., "Data-Free
Quantization through Weight Equalization and Bias Correction", ICCV 2019, Appendix D.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ptq4dm.calibration.calls import evenly_spread
from ptq4dm.pipelines.denoiser import Call, placement
from ptq4dm.progress import progress
from ptq4dm.quantization.input_moments import Rounded
from ptq4dm.ranges.observe import evaluating
from ptq4dm.recipe import WeightRecipe

CALLS: Final = 128
"""Calls of each network that gains are measured on, evenly spread over those given."""
NUMBERS: Final = 2**18
"""Of how many numbers of a layer's answer a call tells, at most: of drawn places, all channels of each."""
LARGEST: Final = 0.5
"""A gain beyond this, either way, is not that of a layer that answers a little less: its scales stay."""
STEADY: Final = 1e-9
"""A layer whose answers vary by less than this share of their mean square always gives the same answer: what is left of
the variance is the rounding of sums."""

See = Callable[[str, Tensor], bool]
"""Is shown a layer's name and its answer, (places, out); True if the layer is another one now and to answer again."""


@dataclass
class Answers:
    """Sums over places of a layer's float answers y and of what the rounded one is away, d, by output channel (out,)
    float64."""

    count: int
    y: Tensor
    d: Tensor
    yy: Tensor
    dy: Tensor

    def add(self, y: Tensor, d: Tensor) -> None:
        """Count answers (n, out)."""
        y, d = y.double().cpu(), d.double().cpu()
        self.count += len(y)
        for total, values in ((self.y, y), (self.d, d), (self.yy, y * y), (self.dy, d * y)):
            total += values.sum(0)

    def gain(self, centred: bool) -> float:
        """g; about the means if `centred`. 0 for a layer that always gives the same answer, and beyond LARGEST."""
        product, square = self.dy, self.yy
        if centred:
            product, square = product - self.d * self.y / self.count, square - self.y.square() / self.count
        total = float(square.sum())
        gain = float(product.sum()) / total if total > STEADY * float(self.yy.sum()) else 0.0
        return gain if abs(gain) <= LARGEST else 0.0


class Corrected:
    """A rounded layer whose scales and bias are set by the answers that it has been seen to give."""

    def __init__(self, layer: Rounded, mean_back: bool):
        self.layer, self.mean_back = layer, mean_back
        self.scale = layer.weight_scale.clone()
        self.bias = None if layer.bias is None else layer.bias.double().cpu()
        zeros = torch.zeros(4, len(self.scale), dtype=torch.float64)
        self.answers = Answers(0, *zeros)
        self.gain, self.shift = 0.0, zeros[0].clone()

    def see(self, y: Tensor, answer: Tensor) -> None:
        """Count answers (n, out) of the float layer and of this one as it is set, and set it anew."""
        uncorrected = (answer.double().cpu() - self.shift) * (1 + self.gain)
        seen = self.answers
        seen.add(y, uncorrected - y.double().cpu())
        self.gain = seen.gain(centred=self.bias is not None)
        self.layer.weight_scale.copy_(self.scale / (1 + self.gain))
        if self.bias is not None and self.layer.bias is not None:
            wanted = seen.y if self.mean_back else seen.y + seen.d
            self.shift = (wanted - (seen.y + seen.d) / (1 + self.gain)) / seen.count
            self.layer.bias.copy_((self.bias / (1 + self.gain) + self.shift).to(self.layer.bias))


@torch.no_grad()
def correct_gains(
    network: nn.Module,
    quantized: nn.Module,
    layers: Mapping[str, Rounded],
    calls: Sequence[Call],
    recipe: WeightRecipe,
    shown: bool = False,
) -> dict[str, float]:
    """Divide the scales of layers of `quantized` by their gains and take the mean of their errors back, as far as the
    recipe takes means back and they have a bias; returns g by layer.

    network: the float one. layers: of `quantized`, by name; one that is not called stays as it is. calls: of the
    calibration. Places where an answer is not finite, and answers of other sizes in the two networks, are not counted.
    """
    taken = evenly_spread(calls, CALLS)
    draws = torch.Generator().manual_seed(0)
    order = torch.randperm(len(taken), generator=draws).tolist()  # those of a loop come in order of t
    corrected = {name: Corrected(layer, recipe.bias_correction) for name, layer in layers.items()}
    with evaluating(network), evaluating(quantized), progress("gain of layers", len(order), shown) as advance:
        for place in order:
            look(network, quantized, corrected, taken[place], draws)
            advance(1)
    return {name: item.gain for name, item in corrected.items() if item.answers.count}


def look(
    network: nn.Module, quantized: nn.Module, corrected: Mapping[str, Corrected], call: Call, draws: torch.Generator
) -> None:
    """Make a call of both networks, with the same random numbers where they draw any, and correct the layers by it."""
    floats: dict[str, deque[tuple[int, Tensor, Tensor]]] = defaultdict(deque)

    def keep(name: str, answer: Tensor) -> bool:
        places = torch.randperm(len(answer), generator=draws)[: max(1, NUMBERS // answer.shape[1])]
        floats[name].append((len(answer), places, answer[places.to(answer.device)]))
        return False

    def compare(name: str, answer: Tensor) -> bool:
        if not floats[name]:
            return False
        number, places, y = floats[name].popleft()
        if number != len(answer):
            return False
        rounded = answer[places.to(answer.device)]
        finite = (y.isfinite() & rounded.isfinite()).all(1)
        if not finite.any():
            return False
        corrected[name].see(y[finite], rounded[finite])
        return True

    device = placement(network)[0]
    for watched, see in ((network, keep), (quantized, compare)):
        devices = [device] if device.type == "cuda" else []
        with watching(watched, list(corrected), see), torch.random.fork_rng(devices):  # both start where the user's are
            watched(*call.args, **call.kwargs)


@contextmanager
def watching(network: nn.Module, names: Sequence[str], see: See) -> Iterator[None]:
    """Every answer of the layers is shown to `see`."""
    modules = {name: network.get_submodule(name) for name in names}

    def hook(name: str) -> Callable[..., Tensor | None]:
        def show(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Tensor) -> Tensor | None:
            return layer.forward(*args, **kwargs) if see(name, by_channel(answer, layer)) else None

        return show

    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_channel(answer: Tensor, layer: nn.Module) -> Tensor:
    """An answer (batch, out, *spatial), or (..., out) of a linear layer, as (n, out)."""
    spatial = len(getattr(layer, "kernel_size", ()))
    return answer.movedim(-spatial - 1, -1).flatten(0, -2) if answer.dim() > 1 else answer[None]
