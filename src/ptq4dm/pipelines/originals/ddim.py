"""The layout of the original DDIM code (Song et al., arXiv 2010.02502), which is that of DDPM's in PyTorch.

The weights of DDPM (Ho et al., arXiv 2006.11239) were published in it too (`ema_diffusion_cifar10_model`, LSUN).
"""

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.originals.names import Renaming
from ptq4dm.pipelines.originals.original import Original

SIGNS: Final = ("temb.dense.0.weight", "conv_in.weight", "mid.block_1.conv1.weight")
"""Tensors that every network of this layout has, and no other."""
SIZES: Final = {(1, 2, 2, 2): 32, (1, 2, 2, 2, 4): 64, (1, 1, 2, 2, 4, 4): 256}
"""The picture size of the repository's own configs, by their `ch_mult`: CIFAR-10, CelebA, LSUN."""
SETTINGS: Final = {"image_size": int, "num_diffusion_timesteps": int, "beta_start": float, "beta_end": float}
"""What a config may say."""
RESNET: Final = {"norm1": "norm1", "conv1": "conv1", "temb_proj": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}


def read_ddim(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], where: str) -> Original:
    """The network of a checkpoint. Raises ModelError for what diffusers cannot express, and names it."""
    check_settings(settings, where)
    levels = len({name.split(".")[1] for name in tensors if name.startswith("down.")})
    blocks = len({name.split(".")[3] for name in tensors if name.startswith("down.0.block.")})
    widths = tuple(len(tensors[key]) for i in range(levels) if (key := f"down.{i}.block.0.conv1.weight") in tensors)
    attended = tuple(f"down.{level}.attn.0.q.weight" in tensors for level in range(levels))
    width = len(tensors["conv_in.weight"])
    if len(widths) != levels or not levels or "conv_out.weight" not in tensors:
        raise ModelError(f"{where}: the checkpoint is truncated: levels of it, or its last layer, are missing")
    if widths[0] != width:
        raise ModelError(
            f"{where}: ch_mult begins with {widths[0] / width:g}: UNet2DModel embeds time-steps as wide as its first "
            "level, so only networks whose ch_mult begins with 1 are read"
        )
    size = settings.get("image_size", SIZES.get(tuple(each // width for each in widths)))
    if size is None:
        raise ModelError(
            f"{where}: the weights do not tell the size of the pictures: say image_size in a config (a TOML or JSON "
            "file of the checkpoint's name beside it, or --config)"
        )
    network: dict[str, Any] = {
        "sample_size": size,
        "in_channels": tensors["conv_in.weight"].shape[1],
        "out_channels": len(tensors["conv_out.weight"]),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": tuple("AttnDownBlock2D" if has else "DownBlock2D" for has in attended),
        "up_block_types": tuple("AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attended)),
        "downsample_padding": 0,
        "norm_num_groups": 32,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }
    scheduler = {
        "num_train_timesteps": settings.get("num_diffusion_timesteps", 1000),
        "beta_schedule": "linear",
        "beta_start": settings.get("beta_start", 0.0001),
        "beta_end": settings.get("beta_end", 0.02),
        "variance_type": "fixed_large",
        "clip_sample": False,
    }
    return Original(network, None, rename(tensors, attended, blocks), scheduler)


def check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Raise ModelError at a key that is not known, or a value that is no positive number."""
    for key, value in settings.items():
        if key not in SETTINGS:
            raise ModelError(f"{where}: unknown key {key!r}: accepted for this layout are {', '.join(SETTINGS)}")
        if isinstance(value, bool) or not isinstance(value, (int, SETTINGS[key])) or not value > 0:
            raise ModelError(f"{where}: {key} = {value!r} should be a positive {SETTINGS[key].__name__}")


def rename(tensors: Mapping[str, Tensor], attended: tuple[bool, ...], blocks: int) -> dict[str, Tensor]:
    """Every tensor under the name that it has in diffusers. Raises ModelError: missing ones, others."""
    names = Renaming(tensors)
    for old, new in (("temb.dense.0", "time_embedding.linear_1"), ("temb.dense.1", "time_embedding.linear_2"),
                     ("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")):  # fmt: skip
        names.layer(old, new)
    last = len(attended) - 1
    for level, has in enumerate(attended):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        level_of(names, f"down.{level}", down, blocks, has)
        level_of(names, f"up.{level}", up, blocks + 1, has)
        if level < last:
            resampler(names, f"down.{level}.downsample", f"{down}.downsamplers.0")
        if level:
            resampler(names, f"up.{level}.upsample", f"{up}.upsamplers.0")
    resnet(names, "mid.block_1", "mid_block.resnets.0")
    attention(names, "mid.attn_1", "mid_block.attentions.0")
    resnet(names, "mid.block_2", "mid_block.resnets.1")
    return names.finish()


def level_of(names: Renaming, old: str, new: str, blocks: int, attended: bool) -> None:
    """The residual blocks of a level and the attentions behind them."""
    for index in range(blocks):
        resnet(names, f"{old}.block.{index}", f"{new}.resnets.{index}")
        if attended:
            attention(names, f"{old}.attn.{index}", f"{new}.attentions.{index}")


def resnet(names: Renaming, old: str, new: str) -> None:
    """A residual block."""
    if names.has(f"{old}.conv_shortcut"):
        raise ModelError(f"{old}.conv_shortcut is a 3x3 convolution (conv_shortcut = True): UNet2DModel has 1x1 there")
    for before, after in RESNET.items():
        names.layer(f"{old}.{before}", f"{new}.{after}")
    if names.has(f"{old}.nin_shortcut"):
        names.layer(f"{old}.nin_shortcut", f"{new}.conv_shortcut")


def resampler(names: Renaming, old: str, new: str) -> None:
    """The convolution that halves or doubles the picture."""
    if not names.has(f"{old}.conv"):
        raise ModelError(f"{old} has no convolution (resamp_with_conv = False): UNet2DModel always has one")
    names.layer(f"{old}.conv", f"{new}.conv")


def attention(names: Renaming, old: str, new: str) -> None:
    """An attention of one head."""
    names.layer(f"{old}.norm", f"{new}.group_norm")
    for before, after in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        names.matrix(f"{old}.{before}", f"{new}.{after}")
