"""Gated feed-forwards whose gate gives integers to the linear layer behind it, in the transformers of Stable Diffusion.

The gate reads two numbers and writes one byte, in place of a product that is written, read and rounded.
"""

from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.blocks import hooked
from ptq4dm.backends.triton_gpu.layers import TritonLayer, band_on
from ptq4dm.quantization.layers import FixedTypes, QuantizedLayer


class RoundedGEGLU(FixedTypes):
    """A `GEGLU` whose output is the integers of the layer behind it, as signed bytes.

    Buffers: `step` and `zero_point`, and `bands`, as `TritonLayer` has them. `proj` has the name it had.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(self, gate: GEGLU, like: TritonLayer):
        super().__init__()
        self.proj = gate.proj
        self.register_buffer("step", like.step.clone())
        self.register_buffer("zero_point", like.zero_point.clone())
        self.bands = like.bands
        self.train(gate.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., channels) float, or integers where a normalisation rounds for `proj`, -> (..., inner) int8."""
        x = self.proj(hidden_states)
        return operators.geglu_quantize(x, self.step, self.zero_point, band_on(self.bands, x))


def round_in_gates(network: nn.Module) -> None:
    """Let every gate round whose reader is in INT8. Before the normalisations of the network are replaced."""
    for module in list(network.modules()):
        reader = reader_of(module)
        if isinstance(module, BasicTransformerBlock) and isinstance(reader, TritonLayer):
            gate = module.ff.net[0]
            assert isinstance(gate, GEGLU)
            module.ff.net[0] = RoundedGEGLU(gate, reader)
            vars(reader)["in_front"] = (module.norm3,)  # which knows the type of the network


def behind_gates(network: nn.Module) -> set[str]:
    """The layers of a simulated network that a gate will hand integers to, once they run in INT8."""
    names = {id(module): name for name, module in network.named_modules()}
    readers = [reader_of(module) for module in network.modules()]
    return {names[id(reader)] for reader in readers if isinstance(reader, QuantizedLayer)}


def reader_of(module: nn.Module) -> nn.Module | None:
    """The layer that alone reads the gate of a transformer block; None where that is not of the known shape."""
    if type(module) is not BasicTransformerBlock or module.norm_type != "layer_norm" or hooked(module):
        return None
    feed, norm = module.ff, module.norm3
    if type(feed) is not FeedForward or hooked(feed) or type(norm) is not nn.LayerNorm or norm.weight is None:
        return None
    gate, between, reader = feed.net[0], feed.net[1], feed.net[2]
    known = type(gate) is GEGLU and type(between) is nn.Dropout and not any(map(hooked, (gate, between, reader)))
    return reader if known else None
