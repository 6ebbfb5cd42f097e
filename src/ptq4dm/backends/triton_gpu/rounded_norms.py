"""Normalisations that give integers to the linear layers behind them: in attention, feed-forward, and before it.

Queries, keys and values are linear layers of the same numbers. Where all of them are in INT8 and round alike (one step,
one zero point), the normalisation in front rounds once, in its own kernel, and they multiply what it gives: one number
read and one byte written instead of a normalisation and three roundings. What rounds apart stays as it is.
"""

from collections.abc import Iterator, Sequence

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.blocks import hooked
from ptq4dm.backends.triton_gpu.layers import TritonLayer, band_on, channels_last, channels_second, step_of
from ptq4dm.quantization.layers import FixedTypes, QuantizedLayer

Place = tuple[nn.Module, str, list[nn.Module]]
"""A module, the name of its normalisation, and the layers that alone read what that gives."""


class RoundedNorm(FixedTypes):
    """A normalisation whose output is the integers of the layers behind it, as signed bytes.

    Buffers: `step` and `zero_point`, and `bands`, as `TritonLayer` has them. The normalisation itself is cast with
    the network.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(self, norm: nn.GroupNorm | nn.LayerNorm, like: TritonLayer):
        super().__init__()
        self.norm = norm
        self.register_buffer("step", like.step.clone())
        self.register_buffer("zero_point", like.zero_point.clone())
        self.bands = like.bands
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """GroupNorm: (batch, channels, *places), LayerNorm: (..., channels), float -> int8 of the same shape."""
        norm = self.norm
        band = band_on(self.bands, input)
        rounding = (self.step, self.zero_point, None, None, band)
        if isinstance(norm, nn.LayerNorm):
            return operators.layer_norm_quantize(input, norm.weight, norm.bias, norm.eps, *rounding)
        x = channels_last(input)
        q = operators.group_norm_quantize(x, norm.num_groups, norm.weight, norm.bias, norm.eps, False, *rounding)
        return channels_second(q)


def behind_norms(network: nn.Module) -> set[str]:
    """The layers of a simulated network that a normalisation will hand integers to, once its readers are in INT8."""
    names = {id(module): name for name, module in network.named_modules()}
    found: set[str] = set()
    for module in network.modules():
        for owner, name, readers in places(module):
            layers = [reader for reader in readers if isinstance(reader, QuantizedLayer)]
            if plain(getattr(owner, name)) and len(layers) == len(readers) and round_alike(layers):
                found |= {names[id(layer)] for layer in layers}
    return found


def round_in_norms(network: nn.Module) -> None:
    """Let every normalisation of a network round whose readers are all in INT8 and round alike."""
    for module in list(network.modules()):
        for owner, name, readers in places(module):
            norm = getattr(owner, name)
            if plain(norm) and alike(readers):
                first = readers[0]
                assert isinstance(first, TritonLayer)
                setattr(owner, name, RoundedNorm(norm, first))
                for reader in readers:
                    vars(reader)["in_front"] = (norm,)  # in a tuple: it is no child of theirs


def places(module: nn.Module) -> Iterator[Place]:
    """The normalisations of a module of diffusers of which it is known who reads them."""
    if type(module) is Attention and self_contained(module) and not module.is_cross_attention:
        yield module, "group_norm", inputs_of(module)
    elif type(module) is Transformer2DModel and module.is_input_continuous:
        yield module, "norm", [module.proj_in]
    elif type(module) is BasicTransformerBlock and module.norm_type == "layer_norm" and module.pos_embed is None:
        first, second = module.attn1, module.attn2
        if behind_norm(first) and not module.only_cross_attention:
            yield module, "norm1", inputs_of(first)
        if second is not None and behind_norm(second) and second.is_cross_attention:
            yield module, "norm2", [second.to_q]
        activation = module.ff.net[0]
        proj = getattr(activation, "proj", None)
        if isinstance(proj, nn.Module) and not (hooked(module.ff) or hooked(activation)):
            yield module, "norm3", [proj]


def inputs_of(attention: Attention) -> list[nn.Module]:
    """What makes queries, keys and values."""
    return [layer for layer in (attention.to_q, attention.to_k, attention.to_v) if layer is not None]


def self_contained(attention: Attention) -> bool:
    """Whether an attention reads what it is given in those layers alone."""
    kind = type(attention.processor)
    return kind in (AttnProcessor, AttnProcessor2_0) and attention.spatial_norm is None and not hooked(attention)


def behind_norm(attention: Attention) -> bool:
    """Whether an attention that reads the normalisation of its block does nothing else with what it is given."""
    return self_contained(attention) and attention.group_norm is None and not attention.residual_connection


def plain(norm: object) -> bool:
    """Whether the kernels know a normalisation."""
    if type(norm) is nn.LayerNorm:
        return norm.elementwise_affine and len(norm.normalized_shape) == 1 and not hooked(norm)
    return type(norm) is nn.GroupNorm and norm.affine and not hooked(norm)


def alike(readers: Sequence[nn.Module]) -> bool:
    """Whether all layers are in INT8 and make the same integers of the same numbers."""
    layers = [reader for reader in readers if isinstance(reader, TritonLayer) and not hooked(reader)]
    return len(layers) == len(readers) and all(
        layer.bands is layers[0].bands
        and torch.equal(layer.step, layers[0].step)
        and torch.equal(layer.zero_point, layers[0].zero_point)
        for layer in layers
    )


def round_alike(layers: Sequence[QuantizedLayer]) -> bool:
    """Whether simulated layers will be `alike` on the kernels."""
    steps, zeros = [step_of(layer) for layer in layers], [layer.input_zero_point for layer in layers]
    return all(
        layer.bands is layers[0].bands and torch.equal(step, steps[0]) and torch.equal(zero, zeros[0])
        for layer, step, zero in zip(layers, steps, zeros, strict=True)
    )
