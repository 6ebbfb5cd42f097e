"""Errors of single calls of the network, to be added to its answer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ptq4dm.pipelines.denoiser import predict

Error = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, timestep, output) -> δ_t of the output's shape: the network's input, its 0-d time-step, its answer."""


def noise_of_size(share: float, seed: int) -> Error:
    """White noise whose norm is a share of the output's: an error that knows nothing of the picture."""

    def error(x_t: Tensor, timestep: Tensor, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed + round(float(timestep)))
        noise = torch.randn(output.shape, generator=generator).to(output)
        scale = share * norms(output) / norms(noise)
        return noise * scale.to(output).view(-1, *[1] * (output.dim() - 1))

    return error


def error_of(quantized: nn.Module) -> Error:
    """What a quantized network's answer is away from the float one's: errors as they really are."""

    def error(x_t: Tensor, timestep: Tensor, output: Tensor) -> Tensor:
        return predict(quantized, x_t, timestep)[:, : output.shape[1]] - output

    return error


def norms(x: Tensor) -> Tensor:
    """(batch,) float64: the L2 norm of each picture."""
    return x.double().flatten(1).norm(dim=1).cpu()
