"""Feed-forwards whose gate or activation gives integers to the linear layer behind it, in transformers of diffusers.

It reads what the first layer has written and writes bytes, in place of floats that are written, read and rounded: the
gated one of Stable Diffusion (GEGLU), and GELU as in DiT.
"""

import torch
from diffusers.models.activations import GEGLU, GELU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.blocks import hooked
from ptq4dm.backends.triton_gpu.layers import TritonLayer, TypeOfNetwork, band_on
from ptq4dm.pipelines.denoiser import placement
from ptq4dm.quantization.layers import FixedTypes, QuantizedLayer


class RoundedActivation(FixedTypes):
    """A `GEGLU` or a `GELU` whose output is the integers of the layer behind it, as signed bytes.

    Buffers: `step` and `zero_point`, and `bands`, as `TritonLayer` has them. `proj` has the name it had.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(self, source: GEGLU | GELU, like: TritonLayer, dtype: torch.dtype):
        super().__init__()
        self.proj, self.type_of_network = source.proj, TypeOfNetwork(dtype)
        self.gated, self.tanh = isinstance(source, GEGLU), isinstance(source, GELU) and source.approximate == "tanh"
        self.register_buffer("step", like.step.clone())
        self.register_buffer("zero_point", like.zero_point.clone())
        self.bands = like.bands
        self.train(source.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., channels) float, or integers where a normalisation rounds for `proj`, -> (..., inner) int8."""
        x = self.proj(hidden_states)
        rounding = (self.step, self.zero_point, band_on(self.bands, x))
        return (
            operators.geglu_quantize(x, *rounding) if self.gated else operators.gelu_quantize(x, self.tanh, *rounding)
        )


def round_in_gates(network: nn.Module) -> None:
    """Let every gate and activation round whose reader is in INT8."""
    dtype = placement(network)[1]
    for module in list(network.modules()):
        reader = reader_of(module)
        if isinstance(module, BasicTransformerBlock) and isinstance(reader, TritonLayer):
            source = module.ff.net[0]
            assert isinstance(source, GEGLU | GELU)
            rounded = RoundedActivation(source, reader, dtype)
            module.ff.net[0] = rounded
            vars(reader)["in_front"] = (rounded.type_of_network,)


def behind_gates(network: nn.Module) -> set[str]:
    """The layers of a simulated network that a gate will hand integers to, once they run in INT8."""
    names = {id(module): name for name, module in network.named_modules()}
    readers = [reader_of(module) for module in network.modules()]
    return {names[id(reader)] for reader in readers if isinstance(reader, QuantizedLayer)}


def reader_of(module: nn.Module) -> nn.Module | None:
    """The layer that alone reads the gate or activation of a transformer block; None where that is not known."""
    if type(module) is not BasicTransformerBlock or hooked(module):
        return None
    feed = module.ff
    if type(feed) is not FeedForward or hooked(feed) or len(feed.net) < 3:
        return None
    source, between, reader = feed.net[0], feed.net[1], feed.net[2]
    known = type(source) in (GEGLU, GELU) and type(between) is nn.Dropout
    return reader if known and not any(map(hooked, (source, between, reader))) else None
