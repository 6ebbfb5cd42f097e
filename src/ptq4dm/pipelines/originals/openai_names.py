"""The tensors of improved-diffusion and guided-diffusion under the names of diffusers."""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from ptq4dm.pipelines.originals.flags import Flags
from ptq4dm.pipelines.originals.names import Renaming
from ptq4dm.pipelines.originals.openai_shape import Shape

RESNET: Final = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
}


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
        first, last = step * (shape.blocks + 1), step * (shape.blocks + 1) + shape.blocks
        for place in range(first, last + 1):
            unit(names, f"output_blocks.{place}", f"up_blocks.{step}", place - first, shape.attention[level], flags)
        if level:
            tail = f"output_blocks.{last}.{2 if shape.attention[level] else 1}"
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
