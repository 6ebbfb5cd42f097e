"""Blocks of diffusers networks with what stands around a quantized layer fused into its kernels.

A residual block normalises, activates and rounds in one kernel, which rounds for its shortcut too, adds the time
embedding behind its first convolution and the residual behind its second. An upsampler reads the small picture through
the convolution's index, and a downsampler pads by it. On the way up (`up_blocks`) a residual block reads two tensors
where they are. The integers are those of the separate operators in float32 but for what rounding a sum or a moment in
another order does (a step here and there); in half precision fewer numbers are rounded on the way. What is not of this
shape stays as it is.
"""

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.layers import TritonConv, band_on, channels_last, channels_second, padded_behind

TWICE = 2
"""By how much diffusers' upsamplers enlarge."""


class FusedResnetBlock2D(nn.Module):
    """A `ResnetBlock2D` whose convolutions in INT8 take their neighbours in. Children have the names they had."""

    def __init__(self, block: ResnetBlock2D):
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2
        self.time_emb_proj, self.conv_shortcut = block.time_emb_proj, block.conv_shortcut
        self.nonlinearity, self.upsample, self.downsample = block.nonlinearity, block.upsample, block.downsample
        self.skip_time_act, self.factor = block.skip_time_act, block.output_scale_factor
        self.scale_shift = block.time_embedding_norm == "scale_shift"
        self.train(block.training)

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """The block's output, channels last in memory; arguments beyond these are ignored, as by the block itself."""
        return self.of_two(input_tensor, None, temb)

    def of_two(self, input_tensor: Tensor, beside: Tensor | None, temb: Tensor | None) -> Tensor:
        """The output for `torch.cat([input_tensor, beside], dim=1)`, not written where no layer reads it in float."""
        embedding = self.embedding(temb, input_tensor.shape[0])
        added = None if self.scale_shift else embedding
        pair = rounded_together(self)
        if pair is not None and (beside is None or beside.dtype == input_tensor.dtype):
            h, shortcut = conv_and_shortcut(self.norm1, *pair, input_tensor, beside, added)
        else:
            whole = input_tensor if beside is None else torch.cat([input_tensor, beside], dim=1)
            h, shortcut = self.first_half(whole, added)
        modulation = None
        if self.scale_shift and embedding is not None:
            scale, shift = embedding.chunk(2, dim=1)
            modulation = scale, shift
        residual = shortcut if self.factor == 1 else None
        h = normalized_conv(self.norm2, self.conv2, h, None, residual, modulation)
        return h if residual is not None else (shortcut + h) / self.factor

    def first_half(self, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
        """What comes to the second normalisation, and what is added at the end."""
        if self.downsample is not None:  # averages floats: nothing to take in
            h = self.downsample(self.nonlinearity(self.norm1(x)))
            h = with_embedding(self.conv1(h), added)
            x = self.downsample(x)
        else:
            factor = 1 if self.upsample is None else TWICE
            h = normalized_conv(self.norm1, self.conv1, x, added, upsample=factor)
            if self.upsample is not None:
                x = self.upsample(x)
        return h, x if self.conv_shortcut is None else self.conv_shortcut(x)

    def embedding(self, temb: Tensor | None, samples: int) -> Tensor | None:
        """What the time-step adds, (samples, channels)."""
        if self.time_emb_proj is None or temb is None:
            return temb
        projected = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))
        return projected.expand(samples, -1)


class FusedDownsample2D(nn.Module):
    """A `Downsample2D` that pads on one side, whose convolution in INT8 does that by its index."""

    def __init__(self, block: Downsample2D):
        super().__init__()
        assert isinstance(block.conv, TritonConv)
        self.conv = padded_behind(block.conv, 1)
        self.train(block.training)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The smaller picture, channels last in memory; arguments beyond are ignored, as by the block itself."""
        return self.conv(hidden_states)


class FusedUpsample2D(nn.Module):
    """An `Upsample2D` whose convolution in INT8 reads the small picture through its index."""

    def __init__(self, block: Upsample2D):
        super().__init__()
        self.conv: Any = block.conv
        self.train(block.training)

    def forward(self, hidden_states: Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """The upsampled picture, channels last in memory."""
        if output_size is not None:  # sizes that do not halve evenly
            return self.conv(F.interpolate(hidden_states, size=output_size, mode="nearest"))
        q = self.conv.integers(channels_last(hidden_states))
        return channels_second(self.conv.product(q, hidden_states.dtype, upsample=TWICE))


def normalized_conv(
    norm: nn.GroupNorm,
    conv: nn.Module,
    x: Tensor,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    modulation: tuple[Tensor, Tensor] | None = None,
    upsample: int = 1,
) -> Tensor:
    """conv(upsample(SiLU(norm(x) * (1 + scale) + shift))) + embedding + residual; in two kernels where conv is in INT8.

    x, residual: (batch, channels, height, width). embedding: (batch, out). modulation: scale and shift, (batch, in).
    """
    if not isinstance(conv, TritonConv):
        h = norm(x)
        if modulation is not None:
            scale, shift = (item[:, :, None, None] for item in modulation)
            h = h * (1 + scale) + shift
        h = F.silu(h)
        if upsample > 1:
            h = F.interpolate(h, scale_factor=float(upsample), mode="nearest")
        h = with_embedding(conv(h), embedding)
        return h if residual is None else residual + h
    scale, shift = (None, None) if modulation is None else modulation
    q = operators.group_norm_quantize(
        channels_last(x),
        norm.num_groups,
        norm.weight,
        norm.bias,
        norm.eps,
        True,
        conv.step,
        conv.zero_point,
        scale,
        shift,
        band_on(conv.bands, x),
    )
    y = conv.product(
        q,
        x.dtype,
        embedding,
        None if residual is None else channels_last(residual),
        upsample,
    )
    return channels_second(y)


def conv_and_shortcut(
    norm: nn.GroupNorm,
    conv: TritonConv,
    shortcut: TritonConv,
    x: Tensor,
    beside: Tensor | None,
    embedding: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """conv(SiLU(norm(y))) + embedding and shortcut(y), y: x and what stands beside it; one kernel rounds for both."""
    q, own = operators.group_norm_and_own_quantize(
        channels_last(x),
        None if beside is None else channels_last(beside),
        norm.num_groups,
        norm.weight,
        norm.bias,
        norm.eps,
        True,
        conv.step,
        conv.zero_point,
        shortcut.step,
        shortcut.zero_point,
        band_on(conv.bands, x),
    )
    h, straight = conv.product(q, x.dtype, embedding), shortcut.product(own, x.dtype)
    return channels_second(h), channels_second(straight)


def with_embedding(h: Tensor, embedding: Tensor | None) -> Tensor:
    """h, with the embedding of each sample added at every place."""
    return h if embedding is None else h + embedding[:, :, None, None]


def fusable_block(module: nn.Module) -> TypeGuard[ResnetBlock2D]:
    """Whether a module is a residual block that FusedResnetBlock2D knows, with a convolution in INT8."""
    return known_block(module) and any(isinstance(conv, TritonConv) for conv in (module.conv1, module.conv2))


def known_block(module: nn.Module) -> TypeGuard[ResnetBlock2D]:
    """Whether a module is a residual block whose operations FusedResnetBlock2D knows."""
    if type(module) is not ResnetBlock2D or hooked(module):
        return False
    norms = (module.norm1, module.norm2)
    return (
        all(type(norm) is nn.GroupNorm and norm.affine and not hooked(norm) for norm in norms)
        and isinstance(module.nonlinearity, nn.SiLU)
        and (module.upsample is None or plain_upsampler(module.upsample))
        and (module.downsample is None or isinstance(module.downsample, Downsample2D))
    )


def fusable_upsampler(module: nn.Module) -> TypeGuard[Upsample2D]:
    """Whether a module enlarges by nearest neighbour and then runs a convolution in INT8, and nothing else."""
    return type(module) is Upsample2D and nearest(module) and isinstance(module.conv, TritonConv) and not hooked(module)


def fusable_downsampler(module: nn.Module) -> TypeGuard[Downsample2D]:
    """Whether a module pads behind by one and then runs a convolution in INT8, and nothing else."""
    if type(module) is not Downsample2D or not isinstance(module.conv, TritonConv) or module.conv.pointwise:
        return False
    return module.use_conv and module.padding == 0 and module.norm is None and not hooked(module)


def plain_upsampler(module: Any) -> bool:
    """Whether a module enlarges by nearest neighbour and does nothing else."""
    return type(module) is Upsample2D and nearest(module) and module.conv is None


def nearest(module: Upsample2D) -> bool:
    """Whether an upsampler interpolates, with no normalisation before."""
    return module.name == "conv" and module.norm is None and module.interpolate and not module.use_conv_transpose


def hooked(module: nn.Module) -> bool:
    """Whether something watches or changes a module's calls."""
    return bool("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks)


def rounded_together(block: FusedResnetBlock2D) -> tuple[TritonConv, TritonConv] | None:
    """The first convolution and the shortcut, where one normalisation rounds for both: they read the same numbers, in
    INT8, with scales for all time-steps or for the same bands of them."""
    conv, shortcut = block.conv1, block.conv_shortcut
    if not (isinstance(conv, TritonConv) and isinstance(shortcut, TritonConv) and conv.bands is shortcut.bands):
        return None
    if hooked(shortcut):
        return None
    return (conv, shortcut) if block.upsample is None and block.downsample is None else None


def rounded_in_front(network: nn.Module) -> set[str]:
    """The layers that a normalisation will hand integers to, once they run in INT8 and their blocks are fused."""
    blocks = {name: module for name, module in network.named_modules() if known_block(module)}
    first = {f"{name}.conv1" for name, block in blocks.items() if block.downsample is None}
    plain = {name for name, block in blocks.items() if block.upsample is None and block.downsample is None}
    return first | {f"{name}.conv2" for name in blocks} | {f"{name}.conv_shortcut" for name in plain}


def upsampled_by_index(network: nn.Module) -> set[str]:
    """The layers that will read a picture half as high and wide through their index, once they run in INT8."""
    modules = dict(network.named_modules())
    blocks = {name for name, module in modules.items() if known_block(module) and module.upsample is not None}
    kinds = {name: module for name, module in modules.items() if type(module) is Upsample2D and not hooked(module)}
    alone = {f"{name}.conv" for name, module in kinds.items() if nearest(module) and module.conv is not None}
    return alone | {f"{name}.conv1" for name in blocks}


def fuse(network: nn.Module) -> None:
    """Put the fused form in place of every block of a network that has one."""
    for name, module in list(network.named_modules()):
        if not name:
            continue
        if fusable_block(module):
            put(network, name, FusedResnetBlock2D(module))
        elif fusable_upsampler(module):
            put(network, name, FusedUpsample2D(module))
        elif fusable_downsampler(module):
            put(network, name, FusedDownsample2D(module))


def put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module of that name."""
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, module)
