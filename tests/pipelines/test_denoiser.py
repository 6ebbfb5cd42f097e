"""Calls of the denoiser in parts: the same answer, few sizes."""

import pytest
import torch
from torch import Tensor, nn

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.denoiser import predict_in_parts, require_finite_weights


class Recorder(nn.Module):
    """Doubles its input and notes the batches it was called with."""

    def __init__(self):
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        self.batches.append(len(x_t))
        return 2 * x_t + timestep


@pytest.mark.parametrize("batch", [1, 2, 5, 29, 32, 47, 64])
def test_parts_are_powers_of_two_that_make_up_the_batch(batch):
    network, x_t = Recorder(), torch.randn(batch, 3, 2, 2, generator=torch.Generator().manual_seed(batch))
    assert torch.equal(predict_in_parts(network, x_t, torch.tensor(7)), 2 * x_t + 7)
    assert sum(network.batches) == batch
    assert set(network.batches) <= {1, 2, 4, 8, 16, 32}
    assert len(network.batches) == batch // 32 + bin(batch % 32).count("1")


def test_weights_that_are_not_in_memory_are_told_in_one_line():
    """As those of a pipeline after enable_sequential_cpu_offload()."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(
        ModelError, match=r"^sd: unet\.1\.weight is not in memory: the network is offloaded .* before off"
    ):
        require_finite_weights(network, "sd: unet")
    require_finite_weights(network[0], "sd: unet")
