"""A small network that is told the time-step, its layers with a range for each of three bands of time-steps."""

import torch
from randomized import randomized
from torch import Tensor, nn

from ptq4dm.quantization.rewrite import with_layers
from ptq4dm.quantization.time_bands import set_bands
from ptq4dm.ranges.search import InputRange

CUTS = (100.0, 500.0)
TIMES = (0, 99, 100, 499, 500, 999)
"""On both sides of each cut."""
RANGES = ((0.011, 0), (0.03, 91), (0.25, 255))
"""Scale and zero point of each band."""


class Timed(nn.Module):
    """A convolution, a linear layer on its channels, and the time-step beside them."""

    def __init__(self, mixing: bool = False):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(6, 8, 3, padding=1), nn.Linear(8, 4)
        self.mixing = mixing

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the convolution gives, what the linear layer makes of its SiLU, and 2 t."""
        first = self.conv(x)
        if self.mixing:
            first = first - first.mean(0, keepdim=True)
        second = self.linear(nn.functional.silu(first).movedim(1, -1))
        return first, second, 2.0 * t.reshape(-1).float()


def banded(mixing: bool = False, smoothed: bool = False) -> nn.Module:
    """Three bands, random integers."""
    network = Timed(mixing).eval().requires_grad_(False)
    layers = {name: randomized(network.get_submodule(name), 64, index) for index, name in enumerate(("conv", "linear"))}
    if smoothed:
        layers["conv"].smoothing = torch.linspace(0.5, 2.0, 6)
    network = with_layers(network, layers)
    ranges = [InputRange(scale, zero, -scale * zero, scale * (255 - zero), 0.0) for scale, zero in RANGES]
    set_bands(network, "t", CUTS, {"conv": ranges, "linear": ranges[::-1]})
    return network


def band_of(t: float) -> int:
    """By the definition: how many cuts are at or below t."""
    return sum(cut <= t for cut in CUTS)


def inputs(times: tuple[int, ...] = TIMES) -> tuple[Tensor, Tensor]:
    """Floats around every range's grid, one sample a time."""
    x = torch.randn(len(times), 6, 5, 5, generator=torch.Generator().manual_seed(1))
    wide = torch.tensor([RANGES[band_of(t)][0] for t in times])
    return x * 100 * wide.view(-1, 1, 1, 1), torch.tensor(times)
