"""The layout of improved-diffusion and guided-diffusion (Nichol and Dhariwal, arXiv 2102.09672 and 2105.05233).

Levels, residual blocks, attention, learned variance, scale-shift norm, classes and residual up- and downsampling are
told by the names and shapes of the tensors; heads, picture size and noise schedule by the flags.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.originals.flags import Flags, require_agreement
from ptq4dm.pipelines.originals.names import Renaming
from ptq4dm.pipelines.originals.original import Original

SIGNS: Final = ("time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.0.weight")
"""Tensors that every network of this layout has, and no other."""
RESNET: Final = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}
PICTURES: Final = (1, 3)
"""Channels of a picture; an upsampler takes the small picture as more."""
TRAINED_STEPS: Final = 1000
"""Rescaled time-steps run from 0 to this."""


@dataclass(frozen=True)
class Shape:
    """What the tensors tell. widths: channels of each level; attention: whether each level has it; blocks: residual
    blocks a level; resampling: `conv` or `resnet`."""

    inputs: int
    outputs: int
    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    blocks: int
    resampling: str
    scale_shift: bool
    classes: int | None


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


def shape_of(tensors: Mapping[str, Tensor]) -> Shape:
    """Read the architecture off the tensors. Raises ModelError."""
    ends = len(indices(tensors, "output_blocks"))
    tails = {index: tail for index in range(ends) if (tail := upsampler_of(tensors, index))}
    blocks = min(tails, default=ends - 1)
    levels, rest = divmod(ends, blocks + 1)
    starts = indices(tensors, "input_blocks")
    if rest or starts != list(range(ends)):
        raise ModelError(
            f"the checkpoint has {len(starts)} input_blocks and {ends} output_blocks, which make no whole levels: "
            "networks with conv_resample = False and truncated ones are not read"
        )
    first = [1 + level * (blocks + 1) for level in range(levels)]
    width = tensors["input_blocks.0.0.weight"].shape[0]
    ends_of_blocks = [f"input_blocks.{index}.0.out_layers.3.weight" for index in first]
    lacking = [name for name in (*ends_of_blocks, "out.2.weight") if name not in tensors]
    if lacking:
        raise ModelError(f"the checkpoint has no tensor {lacking[0]!r}: it is truncated, or of another architecture")
    widths = tuple(len(tensors[name]) for name in ends_of_blocks)
    return Shape(
        inputs=tensors["input_blocks.0.0.weight"].shape[1],
        outputs=len(tensors["out.2.weight"]),
        widths=widths,
        attention=tuple(f"input_blocks.{index}.1.qkv.weight" in tensors for index in first),
        blocks=blocks,
        resampling="resnet" if any(tail.endswith("in_layers.2") for tail in tails.values()) else "conv",
        scale_shift=len(tensors["input_blocks.1.0.emb_layers.1.weight"]) == 2 * width,
        classes=len(tensors["label_emb.weight"]) if "label_emb.weight" in tensors else None,
    )


def indices(tensors: Mapping[str, Tensor], group: str) -> list[int]:
    """The numbers of the blocks in a group, in order."""
    return sorted({int(name.split(".")[1]) for name in tensors if name.startswith(f"{group}.")})


def upsampler_of(tensors: Mapping[str, Tensor], index: int) -> str:
    """The convolution at the end of an output block that enlarges the picture; "" if it has none."""
    for place in (1, 2):
        for tail in ("conv", "in_layers.2"):
            if f"output_blocks.{index}.{place}.{tail}.weight" in tensors:
                return f"output_blocks.{index}.{place}.{tail}"
    return ""


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
            f"{where}: {shape.inputs} channels in and {shape.outputs} out: networks that draw grey or coloured pictures "
            "are read, those that enlarge pictures are not"
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


def rename(tensors: Mapping[str, Tensor], shape: Shape, flags: Flags) -> dict[str, Tensor]:
    """Every tensor under the name that it has in diffusers. Raises ModelError: missing ones, others."""
    names = Renaming(tensors)
    for old, new in (("time_embed.0", "time_embedding.linear_1"), ("time_embed.2", "time_embedding.linear_2"),
                     ("input_blocks.0.0", "conv_in"), ("out.0", "conv_norm_out"), ("out.2", "conv_out")):  # fmt: skip
        names.layer(old, new)
    if shape.classes is not None:
        names.renamed["class_embedding.weight"] = names.take("label_emb.weight")
    place, levels = 1, len(shape.widths)
    for level in range(levels):
        for block in range(shape.blocks):
            unit(names, f"input_blocks.{place}", f"down_blocks.{level}", block, shape.attention[level], flags)
            place += 1
        if level < levels - 1:
            resampler(names, f"input_blocks.{place}.0", f"down_blocks.{level}.downsamplers.0", shape.resampling, "op")
            place += 1
    resnet(names, "middle_block.0", "mid_block.resnets.0")
    attention(names, "middle_block.1", "mid_block.attentions.0", flags)
    resnet(names, "middle_block.2", "mid_block.resnets.1")
    for step, level in enumerate(reversed(range(levels))):
        for block in range(shape.blocks + 1):
            old = f"output_blocks.{step * (shape.blocks + 1) + block}"
            unit(names, old, f"up_blocks.{step}", block, shape.attention[level], flags)
        if level:
            tail = f"{old}.{2 if shape.attention[level] else 1}"
            resampler(names, tail, f"up_blocks.{step}.upsamplers.0", shape.resampling, "conv")
    return names.finish()


def unit(names: Renaming, old: str, new: str, index: int, attended: bool, flags: Flags) -> None:
    """A residual block, and the attention behind it."""
    resnet(names, f"{old}.0", f"{new}.resnets.{index}")
    if attended:
        attention(names, f"{old}.1", f"{new}.attentions.{index}", flags)


def resnet(names: Renaming, old: str, new: str) -> None:
    """A residual block."""
    for before, after in RESNET.items():
        names.layer(f"{old}.{before}", f"{new}.{after}")
    if names.has(f"{old}.skip_connection"):
        names.layer(f"{old}.skip_connection", f"{new}.conv_shortcut")


def resampler(names: Renaming, old: str, new: str, kind: str, layer: str) -> None:
    """What halves or doubles the picture: a residual block, or one convolution."""
    if kind == "resnet":
        resnet(names, old, new)
    else:
        names.layer(f"{old}.{layer}", f"{new}.conv")


def attention(names: Renaming, old: str, new: str, flags: Flags) -> None:
    """An attention: one projection to queries, keys and values becomes three.

    Its rows stand head by head, (heads, 3, channels of a head), or in the new order (3, heads, channels of a head).
    """
    names.layer(f"{old}.norm", f"{new}.group_norm")
    names.matrix(f"{old}.proj_out", f"{new}.to_out.0")
    for part in ("weight", "bias"):
        rows = names.take(f"{old}.qkv.{part}")
        width = len(rows) // 3
        heads = flags.num_heads if flags.num_head_channels == -1 else width // flags.num_head_channels
        rows = rows.reshape(width * 3, -1) if part == "weight" else rows
        if flags.use_new_attention_order:
            split = rows.chunk(3)
        else:
            split = rows.reshape(heads, 3, -1, *rows.shape[1:]).transpose(0, 1).flatten(1, 2).unbind(0)
        names.renamed |= {
            f"{new}.{name}.{part}": each.contiguous() for name, each in zip(("to_q", "to_k", "to_v"), split)
        }


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
