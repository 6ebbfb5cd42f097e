"""Blocks on the way up in diffusers' UNets: the skip connection is not copied beside what comes from below.

diffusers joins both for each residual block: read, written, and read again by the normalisation and by the shortcut. A
residual block in INT8 (`blocks.FusedResnetBlock2D`) reads the two where they are.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from diffusers.models.unets.unet_2d_blocks import AttnUpBlock2D, CrossAttnUpBlock2D, UpBlock2D
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu.blocks import FusedResnetBlock2D, hooked

Attend = Callable[[nn.Module, Tensor], Tensor]
"""(attention, what comes from the residual block) -> what goes on."""


class FusedUpBlock2D(nn.Module):
    """An `UpBlock2D` or `AttnUpBlock2D` of residual blocks that take two tensors. Children have the names they had."""

    s1 = s2 = b1 = b2 = None
    """FreeU's factors, which a network sets on its blocks (`enable_freeu`)."""

    def __init__(self, block: UpBlock2D | AttnUpBlock2D | CrossAttnUpBlock2D):
        super().__init__()
        self.resnets, self.upsamplers = block.resnets, block.upsamplers
        self.attentions = getattr(block, "attentions", None)
        self.has_cross_attention = getattr(block, "has_cross_attention", False)
        self.resolution_idx = getattr(block, "resolution_idx", None)
        self.upsampled_at_time = getattr(block, "upsample_type", "conv") == "resnet"
        vars(self).update({name: getattr(block, name) for name in FREEU if hasattr(block, name)})
        self.train(block.training)

    def forward(
        self,
        hidden_states: Tensor,
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: Tensor | None = None,
        upsample_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """The block's output; arguments beyond these are ignored, as by the block itself."""
        return self.up(hidden_states, res_hidden_states_tuple, temb, upsample_size, lambda attention, h: attention(h))

    def up(self, h: Tensor, skips: tuple[Tensor, ...], temb: Tensor | None, size: int | None, attend: Attend) -> Tensor:
        """Through each residual block with the last skip left, its attention if there is one, and the upsampler."""
        freeu = {name: getattr(self, name) for name in FREEU}
        for index, resnet in enumerate(self.resnets):
            skip = skips[-1 - index]
            if all(freeu.values()) and self.resolution_idx is not None:
                h, skip = apply_freeu(self.resolution_idx, h, skip, **freeu)
            if isinstance(resnet, FusedResnetBlock2D):
                h = resnet.of_two(h, skip, temb)
            else:
                h = resnet(torch.cat([h, skip], dim=1), temb)
            if self.attentions is not None:
                h = attend(self.attentions[index], h)
        for upsampler in self.upsamplers or ():
            h = upsampler(h, temb if self.upsampled_at_time else size)
        return h


class FusedCrossAttnUpBlock2D(FusedUpBlock2D):
    """The same of a `CrossAttnUpBlock2D`."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] (as diffusers calls each of them)
        self,
        hidden_states: Tensor,
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        upsample_size: int | None = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The block's output."""

        def attend(attention: nn.Module, h: Tensor) -> Tensor:
            return attention(
                h,
                encoder_hidden_states=encoder_hidden_states,
                cross_attention_kwargs=cross_attention_kwargs,
                attention_mask=attention_mask,
                encoder_attention_mask=encoder_attention_mask,
                return_dict=False,
            )[0]

        return self.up(hidden_states, res_hidden_states_tuple, temb, upsample_size, attend)


FREEU = ("s1", "s2", "b1", "b2")
FUSED = {UpBlock2D: FusedUpBlock2D, AttnUpBlock2D: FusedUpBlock2D, CrossAttnUpBlock2D: FusedCrossAttnUpBlock2D}


def join_in_kernels(network: nn.Module) -> None:
    """Put the fused form in place of every block on the way up with a residual block of two tensors. After `fuse`."""
    for name, module in list(network.named_modules()):
        if name and reads_two(module):
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, FUSED[type(module)](module))


def reads_two(module: nn.Module) -> TypeGuard[UpBlock2D | AttnUpBlock2D | CrossAttnUpBlock2D]:
    """Whether a module is a known block on the way up with a residual block that takes two tensors."""
    if type(module) not in FUSED or hooked(module):
        return False
    return any(isinstance(child, FusedResnetBlock2D) for child in module.get_submodule("resnets").children())
