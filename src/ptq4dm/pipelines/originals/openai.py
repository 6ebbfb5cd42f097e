"""The layout of improved-diffusion and guided-diffusion (Nichol and Dhariwal, arXiv 2102.09672 and 2105.05233).

Levels, residual blocks, attention, learned variance, scale-shift norm, classes and residual up- and downsampling are
told by the names and shapes of the tensors; heads, picture size and noise schedule by the flags.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.originals.flags import Flags, require_agreement
from ptq4dm.pipelines.originals.openai_names import rename
from ptq4dm.pipelines.originals.openai_shape import Shape, shape_of
from ptq4dm.pipelines.originals.original import Original

SIGNS: Final = ("time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.0.weight")
"""Tensors that every network of this layout has, and no other."""
PICTURES: Final = (1, 3)
"""Channels of a picture; an upsampler takes the small picture as more."""
TRAINED_STEPS: Final = 1000
"""Rescaled time-steps run from 0 to this."""


def read_openai(tensors: Mapping[str, Tensor], flags: Flags, where: str) -> Original:
    """The network of a checkpoint. Raises ModelError for what diffusers cannot express, and names it."""
    shape = shape_of(tensors)
    require_expressible(shape, tensors, flags, where)
    head_dim, heads = heads_of(shape, flags, where)
    rescaled = flags.rescale_timesteps and flags.diffusion_steps != TRAINED_STEPS
    network: dict[str, Any] = {
        "sample_size": flags.image_size,
        "in_channels": shape.inputs,
        "out_channels": shape.outputs,
        "block_out_channels": shape.widths,
        "layers_per_block": shape.blocks,
        "down_block_types": tuple(block_type("Down", has, shape.resampling) for has in shape.attention),
        "up_block_types": tuple(block_type("Up", has, shape.resampling) for has in reversed(shape.attention)),
        "downsample_type": shape.resampling,
        "upsample_type": shape.resampling,
        "downsample_padding": 1,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if shape.scale_shift else "default",
        "attention_head_dim": head_dim,
        "num_class_embeds": shape.classes,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "time_embedding_type": "learned" if rescaled else "positional",
        "num_train_timesteps": flags.diffusion_steps,
    }
    renamed = rename(tensors, shape, flags)
    if rescaled:
        renamed["time_proj.weight"] = rescaled_embeddings(flags.diffusion_steps, shape.widths[0])
    return Original(network, heads, renamed, schedule(flags, shape))


def require_expressible(shape: Shape, tensors: Mapping[str, Tensor], flags: Flags, where: str) -> None:
    """Raise ModelError at a setting that diffusers' UNet2DModel does not have, or flags of another network."""
    width = tensors["time_embed.0.weight"].shape[1]
    multiples = ",".join(f"{each / width:g}" for each in shape.widths)
    if shape.widths[0] != width or len(tensors["input_blocks.0.0.weight"]) != width:
        raise ModelError(
            f"{where}: channel_mult = {multiples}: UNet2DModel embeds time-steps as wide as its first level, so only "
            "networks whose channel_mult begins with 1 are read"
        )
    if flags.num_heads_upsample not in (-1, flags.num_heads) and flags.num_head_channels == -1:
        raise ModelError(f"{where}: num_heads_upsample = {flags.num_heads_upsample}: UNet2DModel has the same heads up "
                         f"and down (num_heads = {flags.num_heads})")  # fmt: skip
    if shape.inputs not in PICTURES or shape.outputs not in (shape.inputs, 2 * shape.inputs):
        raise ModelError(
            f"{where}: {shape.inputs} channels in and {shape.outputs} out: networks that draw grey or coloured "
            "pictures are read, those that enlarge pictures are not"
        )
    sides = [flags.image_size >> level for level in range(len(shape.widths))]
    if flags.image_size % (1 << (len(sides) - 1)):
        raise ModelError(f"{where}: image_size = {flags.image_size} cannot be halved {len(sides) - 1} times")
    given = {int(side) for side in (flags.attention_resolutions or "").split(",") if side.strip().isdigit()}
    attended = {side for side, has in zip(sides, shape.attention, strict=True) if has}
    if flags.attention_resolutions is not None and given & set(sides) != attended:
        raise ModelError(
            f"{where}: attention_resolutions = {flags.attention_resolutions!r} of image_size = {flags.image_size}, but "
            f"the weights have attention at {sorted(attended, reverse=True)}"
        )
    told = {
        "num_channels": width,
        "num_res_blocks": shape.blocks,
        "channel_mult": multiples,
        "learn_sigma": shape.outputs == 2 * shape.inputs,
        "class_cond": shape.classes is not None,
        "use_scale_shift_norm": shape.scale_shift,
        "resblock_updown": shape.resampling == "resnet",
    }
    require_agreement(flags, told, where)


def heads_of(shape: Shape, flags: Flags, where: str) -> tuple[int | None, int | None]:
    """Channels of a head for UNet2DModel, None for one head; or, where no number of channels says it, the heads."""
    attended = {*(width for width, has in zip(shape.widths, shape.attention, strict=True) if has), shape.widths[-1]}
    name = "num_heads" if flags.num_head_channels == -1 else "num_head_channels"
    given = getattr(flags, name)
    for width in sorted(attended):
        if given < 1 or width % given:
            raise ModelError(f"{where}: {name} = {given} does not divide an attention of {width} channels")
    if name == "num_head_channels":
        return given, None
    if given == 1:
        return None, None
    return (given, given) if len(attended) > 1 else (attended.pop() // given, None)


def block_type(way: str, attention: bool, resampling: str) -> str:
    """The class of a level."""
    if attention:
        return f"Attn{way}Block2D"
    return f"{way}Block2D" if resampling == "conv" else f"Resnet{way}sampleBlock2D"


def rescaled_embeddings(steps: int, width: int) -> Tensor:
    """The sinusoids of t · 1000 / steps for every t, (steps, width), in the float32 that the network was trained in.

    diffusers cannot rescale time-steps, but it can look embeddings up.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = (torch.arange(steps).float() * (TRAINED_STEPS / steps))[:, None] * frequencies[None]
    sinusoids = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return torch.nn.functional.pad(sinusoids, (0, width % 2))


def schedule(flags: Flags, shape: Shape) -> dict[str, Any]:
    """The diffusion process as settings of DDPMScheduler: its betas are those of the original, as are its variances."""
    scale = TRAINED_STEPS / flags.diffusion_steps
    betas = {"beta_schedule": "linear", "beta_start": scale * 0.0001, "beta_end": scale * 0.02}
    if flags.noise_schedule == "cosine":
        betas = {"beta_schedule": "squaredcos_cap_v2"}
    fixed = "fixed_small" if flags.sigma_small else "fixed_large"
    return {
        **betas,
        "num_train_timesteps": flags.diffusion_steps,
        "variance_type": "learned_range" if shape.outputs == 2 * shape.inputs else fixed,
        "prediction_type": "sample" if flags.predict_xstart else "epsilon",
        "clip_sample": True,
    }
