"""A call of a network by what its config says, for the choice of layers where no call is known.

Pipelines that diffusers loads tell nothing of the calls that they will make, and a choice at the first of them would
come too late for `torch.compile`. Speed depends on shapes alone, so these numbers are zeros.
"""

from typing import Any, Final

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from ptq4dm.pipelines.denoiser import Call

TOKENS: Final = 77
"""Of a text, as CLIP counts them."""
SAMPLES: Final = 2
"""One picture with guidance."""


def example_from_config(network: nn.Module) -> Call | None:
    """A call of two samples in float32; None for networks whose inputs their config does not tell."""
    if not isinstance(network, UNet2DModel | UNet2DConditionModel | DiTTransformer2DModel):
        return None
    config: Any = network.config
    if config.sample_size is None:
        return None
    size = config.sample_size if isinstance(config.sample_size, tuple | list) else (config.sample_size,) * 2
    x, t = torch.zeros(SAMPLES, config.in_channels, *size), torch.full((SAMPLES,), 500)
    if isinstance(network, DiTTransformer2DModel):
        return Call((x, t), {"class_labels": torch.zeros(SAMPLES, dtype=torch.long)})
    labelled = config.class_embed_type is not None or config.num_class_embeds is not None
    if labelled:
        return None
    return Call((x, t)) if isinstance(network, UNet2DModel) else of_text(x, t, config)


def of_text(x: Tensor, t: Tensor, config: Any) -> Call | None:
    """A call with a text, of Stable Diffusion or its XL form; None with an adapter or another kind of condition."""
    width = config.cross_attention_dim if config.encoder_hid_dim is None else config.encoder_hid_dim
    known = config.encoder_hid_dim_type in (None, "text_proj") and config.addition_embed_type in (None, "text_time")
    if not known or not isinstance(width, int):
        return None
    more: dict[str, Any] = {"encoder_hidden_states": torch.zeros(SAMPLES, TOKENS, width)}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.zeros(SAMPLES, pooled), "time_ids": torch.zeros(SAMPLES, 6)}
        more["added_cond_kwargs"] = added
    return Call((x, t), more)
