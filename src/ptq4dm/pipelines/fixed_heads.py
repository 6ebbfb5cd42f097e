"""A UNet2DModel whose attentions all have the same number of heads, whatever their channels.

improved-diffusion fixes the number of heads (4), diffusers the channels of a head. Where attention stands at levels of
different width, as in the ImageNet64 network, no `UNet2DModel` says the former; this class does. A folder that names it
opens with diffusers too, where ptq4dm is installed.
"""

from functools import wraps
from typing import Any

from diffusers import ModelMixin, UNet2DModel
from diffusers.models.attention_processor import Attention

__all__ = ["FixedHeadsUNet2DModel", "ModelMixin"]  # diffusers looks for the latter where it finds the former


class FixedHeadsUNet2DModel(UNet2DModel):
    """`UNet2DModel`, but its setting `attention_head_dim` is how many heads each attention has."""

    @wraps(UNet2DModel.__init__)
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        heads = int(self.config["attention_head_dim"])
        for module in self.modules():
            if isinstance(module, Attention):
                module.heads = module.sliceable_head_dim = heads
                module.scale = (module.inner_dim // heads) ** -0.5
