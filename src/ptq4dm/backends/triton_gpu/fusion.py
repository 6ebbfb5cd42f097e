"""What stands around a network's layers in INT8, taken into their kernels: every pass of it, in order."""

from torch import nn

from ptq4dm.backends.triton_gpu.attention import attend_on_kernels
from ptq4dm.backends.triton_gpu.blocks import fuse
from ptq4dm.backends.triton_gpu.modulated_blocks import modulate_in_norms
from ptq4dm.backends.triton_gpu.residuals import add_in_kernels
from ptq4dm.backends.triton_gpu.rounded_gates import round_in_gates
from ptq4dm.backends.triton_gpu.rounded_norms import round_in_norms
from ptq4dm.backends.triton_gpu.up_blocks import join_in_kernels


def fuse_around_layers(network: nn.Module) -> None:
    """Change a network of layers on the kernels in place. Each pass leaves alone what is of no shape that it knows."""
    fuse(network)
    join_in_kernels(network)
    attend_on_kernels(network)
    round_in_gates(network)
    round_in_norms(network)
    add_in_kernels(network)
    modulate_in_norms(network)
