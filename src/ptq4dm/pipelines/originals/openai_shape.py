"""What names and shapes of the tensors tell of a network of improved-diffusion or guided-diffusion."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ptq4dm.errors import ModelError


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
