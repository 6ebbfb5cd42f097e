"""Quantize a network that your own sampling loop calls, whatever its class and arguments."""

import torch
from torch import nn

import ptq4dm


class Score(nn.Module):
    """A tiny score network s(x, sigma)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(4, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 3, 1)
        )

    def forward(self, x: torch.Tensor, *, sigma: torch.Tensor) -> torch.Tensor:
        level = sigma.log().view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return self.net(torch.cat([x, level], dim=1))


score = Score().eval()
sigmas = torch.logspace(1, -2, 16)
batches = [((sigma * torch.randn(8, 3, 16, 16),), {"sigma": sigma.repeat(8)}) for sigma in sigmas]
fast = ptq4dm.quantize_module(score, batches, "w8a8", timestep="sigma").to_module(backend="auto")

x = sigmas[0] * torch.randn(4, 3, 16, 16)
with torch.no_grad():
    for sigma in sigmas:
        x = x + 0.5 * sigma**2 * fast(x, sigma=sigma.repeat(4))
print(tuple(x.shape))
