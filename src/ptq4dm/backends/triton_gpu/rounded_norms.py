"""Normalisations that give integers to the linear layers behind them: in attention, feed-forward, and before it.

Queries, keys and values are linear layers of the same numbers. Where all of them are in INT8 the normalisation in front
rounds for them in its own kernel, once where they round alike (one step, one zero point), else for each (each has a
smoothing of its own, say): one number read and a byte or three written, instead of a normalisation and three roundings.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.normalization import AdaLayerNormZero
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.attention import fitting, in_int8, inputs_of, on_kernels, self_contained
from ptq4dm.backends.triton_gpu.blocks import hooked
from ptq4dm.backends.triton_gpu.layers import (
    TritonLayer,
    TypeOfNetwork,
    band_on,
    channels_last,
    step_of,
)
from ptq4dm.pipelines.denoiser import placement
from ptq4dm.quantization.layers import FixedTypes, QuantizedLayer

Place = tuple[nn.Module, str, list[nn.Module], Attention | None]
"""A module, the name of its normalisation, the layers that alone read what that gives, and the attention whose queries,
keys and values these are."""


class RoundedNorm(FixedTypes):
    """A normalisation whose output is the integers of the layers behind it, as signed bytes.

    Buffers: `step` and `zero_point`, and `bands`, as `TritonLayer` has them. The normalisation itself is cast with
    the network.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(self, norm: nn.GroupNorm | nn.LayerNorm, like: TritonLayer, dtype: torch.dtype):
        super().__init__()
        self.norm, self.type_of_network = norm, TypeOfNetwork(dtype)
        self.register_buffer("step", like.step.clone())
        self.register_buffer("zero_point", like.zero_point.clone())
        self.bands = like.bands
        self.train(norm.training)

    def forward(self, input: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """GroupNorm: (batch, channels, *places), LayerNorm: (..., channels), float -> int8 of the same shape.

        scale, shift: (batch, channels), by which a sample's numbers are modulated before, or both None.
        """
        return rounded(self.norm, input, (self.step, self.zero_point, scale, shift, band_on(self.bands, input)))


class RoundedForEach(FixedTypes):
    """A normalisation whose output is integers for queries, for keys and for values, which round apart.

    Buffers: `step` and `zero_point`, and `bands`, as `TritonLayer` has them, of the three in a row.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(
        self,
        norm: nn.GroupNorm | nn.LayerNorm,
        readers: Sequence[TritonLayer],
        attention: Attention,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.norm, self.type_of_network = norm, TypeOfNetwork(dtype)
        self.register_buffer("step", stacked([reader.step for reader in readers]))
        self.register_buffer("zero_point", torch.stack([reader.zero_point for reader in readers]))
        self.bands = readers[0].bands
        vars(self)["attention"] = (attention,)  # in a tuple: it is no child of this
        self.train(norm.training)

    def forward(
        self, input: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """As `RoundedNorm`, for each; floats where the attention was given a processor that knows nothing of this."""
        if not on_kernels(vars(self)["attention"][0]):
            return self.norm(input) if scale is None or shift is None else modulated(self.norm, input, scale, shift)
        rounding = (self.step, self.zero_point, scale, shift, band_on(self.bands, input), len(self.step))
        return rounded(self.norm, input, rounding).unbind()


def rounded(norm: nn.GroupNorm | nn.LayerNorm, x: Tensor, rounding: tuple[Any, ...]) -> Tensor:
    """The integers of a normalisation of x, of its shape; of several roundings with an axis in front.

    rounding: step, zero point, scale, shift, band and number of roundings, as the operators take them.
    """
    if isinstance(norm, nn.LayerNorm):
        return operators.layer_norm_quantize(x, norm.weight, norm.bias, norm.eps, *rounding)
    given = (channels_last(x), norm.num_groups, norm.weight, norm.bias, norm.eps, False)
    q = operators.group_norm_quantize(*given, *rounding)
    return q.movedim(-1, q.dim() - x.dim() + 1)


def modulated(norm: nn.Module, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor | tuple[Tensor, ...]:
    """norm(x) (1 + scale) + shift, rounded where the normalisation rounds. x: (batch, places, channels)."""
    if isinstance(norm, RoundedNorm | RoundedForEach):
        return norm(x, scale, shift)
    return norm(x) * (1 + scale[:, None]) + shift[:, None]


def stacked(steps: Sequence[Tensor]) -> Tensor:
    """Steps of several layers in a row; where one has a step for each channel, all have."""
    axes = max(step.dim() for step in steps)
    return torch.stack(torch.broadcast_tensors(*(step if step.dim() == axes else step[..., None] for step in steps)))


def behind_norms(network: nn.Module) -> set[str]:
    """The layers of a simulated network that a normalisation will hand integers to, once its readers are in INT8."""
    names = {id(module): name for name, module in network.named_modules()}
    found: set[str] = set()
    for module in network.modules():
        for owner, name, readers, attention in places(module):
            layers = [reader for reader in readers if isinstance(reader, QuantizedLayer)]
            if not plain(getattr(owner, name)) or len(layers) < len(readers):
                continue
            if round_alike(layers) or (attention is not None and fitting(attention) and in_one_band(layers)):
                found |= {names[id(layer)] for layer in layers}
    return found


def round_in_norms(network: nn.Module) -> None:
    """Let every normalisation of a network round whose readers are all in INT8: once if they round alike, else for each
    of queries, keys and values. After `attend_on_kernels`."""
    dtype = placement(network)[1]
    for module in list(network.modules()):
        for owner, name, readers, attention in places(module):
            norm = getattr(owner, name)
            layers = [reader for reader in readers if isinstance(reader, TritonLayer) and in_int8(reader)]
            if not plain(norm) or len(layers) < len(readers) or not in_one_band(layers):
                continue
            if alike(layers):
                rounded = RoundedNorm(norm, layers[0], dtype)
            elif attention is not None and on_kernels(attention):
                rounded = RoundedForEach(norm, layers, attention, dtype)
            else:
                continue
            setattr(owner, name, rounded)
            for layer in layers:
                vars(layer)["in_front"] = (rounded.type_of_network,)


def places(module: nn.Module) -> Iterator[Place]:
    """The normalisations of a module of diffusers of which it is known who reads them."""
    if type(module) is Attention and self_contained(module) and not module.is_cross_attention:
        yield module, "group_norm", inputs_of(module), module
    elif type(module) is Transformer2DModel and module.is_input_continuous:
        yield module, "norm", [module.proj_in], None
    elif type(module) is BasicTransformerBlock and module.norm_type == "layer_norm" and module.pos_embed is None:
        first, second = module.attn1, module.attn2
        if behind_norm(first) and not module.only_cross_attention:
            yield module, "norm1", inputs_of(first), first
        if second is not None and behind_norm(second) and second.is_cross_attention:
            yield module, "norm2", [second.to_q], None
        yield from in_front_of_feed_forward(module)
    elif modulates(module):
        if behind_norm(module.attn1):
            yield module.norm1, "norm", inputs_of(module.attn1), module.attn1
        yield from in_front_of_feed_forward(module)


def in_front_of_feed_forward(block: BasicTransformerBlock) -> Iterator[Place]:
    """The last normalisation of a block, where it is known who reads it."""
    proj = getattr(block.ff.net[0], "proj", None)
    if isinstance(proj, nn.Module) and not (hooked(block.ff) or hooked(block.ff.net[0])):
        yield block, "norm3", [proj], None


def modulates(module: nn.Module) -> TypeGuard[BasicTransformerBlock]:
    """Whether a module is a block of DiT that `modulated_blocks` knows."""
    if type(module) is not BasicTransformerBlock or type(module.norm1) is not AdaLayerNormZero or hooked(module):
        return False
    alone = module.attn2 is None and module.pos_embed is None and not module.only_cross_attention
    return alone and module.norm_type == "ada_norm_zero" and module.norm1.emb is not None and not hooked(module.norm1)


def behind_norm(attention: Attention) -> bool:
    """Whether an attention that reads the normalisation of its block does nothing else with what it is given."""
    return self_contained(attention) and attention.group_norm is None and not attention.residual_connection


def plain(norm: object) -> bool:
    """Whether the kernels know a normalisation."""
    if type(norm) is nn.LayerNorm:
        return len(norm.normalized_shape) == 1 and not hooked(norm)
    return type(norm) is nn.GroupNorm and norm.affine and not hooked(norm)


def in_one_band(layers: Sequence[TritonLayer | QuantizedLayer]) -> bool:
    """Whether all layers have scales for the same bands of time-steps, or for all of them."""
    return all(layer.bands is layers[0].bands for layer in layers)


def alike(layers: Sequence[TritonLayer]) -> bool:
    """Whether all layers make the same integers of the same numbers."""
    first = layers[0]
    return in_one_band(layers) and all(
        torch.equal(layer.step, first.step) and torch.equal(layer.zero_point, first.zero_point) for layer in layers
    )


def round_alike(layers: Sequence[QuantizedLayer]) -> bool:
    """Whether simulated layers will be `alike` on the kernels."""
    steps, zeros = [step_of(layer) for layer in layers], [layer.input_zero_point for layer in layers]
    return in_one_band(layers) and all(
        torch.equal(step, steps[0]) and torch.equal(zero, zeros[0]) for step, zero in zip(steps, zeros, strict=True)
    )
