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

from ptq4dm.backends.triton_gpu.blocks import FusedResnetBlock2D, hooked, put

Attend = Callable[[int, Tensor], Tensor]
"""(the number of the residual block, what comes from it) -> what its attention makes of that."""


class FusedUpBlock2D(nn.Module):
    """An `UpBlock2D` of residual blocks that take two tensors. Children have the names they had."""

    s1 = s2 = b1 = b2 = None
    """FreeU's factors, which a network sets on its blocks (`enable_freeu`)."""

    def __init__(self, block: UpBlock2D | AttnUpBlock2D | CrossAttnUpBlock2D):
        super().__init__()
        self.resnets, self.upsamplers = block.resnets, block.upsamplers
        self.resolution_idx = getattr(block, "resolution_idx", None)
        for name in ("attentions", "has_cross_attention"):  # which diffusers asks for by hasattr
            if hasattr(block, name):
                setattr(self, name, getattr(block, name))
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
        h = self.through_resnets(hidden_states, res_hidden_states_tuple, temb)
        return self.enlarged(h, upsample_size)

    def through_resnets(
        self, h: Tensor, skips: tuple[Tensor, ...], temb: Tensor | None, attend: Attend | None = None
    ) -> Tensor:
        """Through each residual block with the last skip left, and its attention if there is one."""
        for index, resnet in enumerate(self.resnets):
            h, skip = self.reweighted(h, skips[-1 - index])
            if isinstance(resnet, FusedResnetBlock2D) and not hooked(resnet):
                h = resnet.of_two(h, skip, temb)
            else:
                h = resnet(torch.cat([h, skip], dim=1), temb)
            h = h if attend is None else attend(index, h)
        return h

    def reweighted(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Both as FreeU weighs them, where it is set."""
        factors = {name: getattr(self, name) for name in FREEU}
        if not all(factors.values()) or self.resolution_idx is None:
            return h, skip
        return apply_freeu(self.resolution_idx, h, skip, **factors)

    def enlarged(self, h: Tensor, further: Any) -> Tensor:
        """Upsampled, if the block does that; further: the size, or the time-step's embedding for a residual block."""
        for upsampler in self.upsamplers or ():
            h = upsampler(h, further)
        return h


class FusedAttnUpBlock2D(FusedUpBlock2D):
    """The same of an `AttnUpBlock2D`, which knows neither FreeU nor sizes."""

    def __init__(self, block: AttnUpBlock2D):
        super().__init__(block)
        self.upsampled_at_time = block.upsample_type == "resnet"

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
        attentions: Any = self.attentions
        h = self.through_resnets(hidden_states, res_hidden_states_tuple, temb, lambda index, h: attentions[index](h))
        return self.enlarged(h, temb if self.upsampled_at_time else None)

    def reweighted(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are."""
        return h, skip


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

        attentions: Any = self.attentions

        def attend(index: int, h: Tensor) -> Tensor:
            return attentions[index](
                h,
                encoder_hidden_states=encoder_hidden_states,
                cross_attention_kwargs=cross_attention_kwargs,
                attention_mask=attention_mask,
                encoder_attention_mask=encoder_attention_mask,
                return_dict=False,
            )[0]

        h = self.through_resnets(hidden_states, res_hidden_states_tuple, temb, attend)
        return self.enlarged(h, upsample_size)


FREEU = ("s1", "s2", "b1", "b2")
FUSED = {UpBlock2D: FusedUpBlock2D, AttnUpBlock2D: FusedAttnUpBlock2D, CrossAttnUpBlock2D: FusedCrossAttnUpBlock2D}


def join_in_kernels(network: nn.Module) -> None:
    """Put the fused form in place of every block on the way up with a residual block of two tensors. After `fuse`."""
    for name, module in list(network.named_modules()):
        if name and reads_two(module):
            put(network, name, FUSED[type(module)](module))


def reads_two(module: nn.Module) -> TypeGuard[UpBlock2D | AttnUpBlock2D | CrossAttnUpBlock2D]:
    """Whether a module is a known block on the way up with a residual block that takes two tensors."""
    if type(module) not in FUSED or hooked(module):
        return False
    return any(isinstance(child, FusedResnetBlock2D) for child in module.get_submodule("resnets").children())
