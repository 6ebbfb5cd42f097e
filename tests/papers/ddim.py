"""The network of the original DDIM code (and of DDPM in PyTorch), as functions of a dict of weights in its layout."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    channels: int = 32
    mult: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (1,)
    """Levels with attention."""


def random_weights(settings: Settings, seed: int = 0) -> Weights:
    """A checkpoint of the original with random weights."""
    weights: Weights = {}
    generator = torch.Generator().manual_seed(seed)
    base, levels = settings.channels, len(settings.mult)

    def put(name: str, *shape: int) -> None:
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.2

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=generator)
        weights[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)

    def resnet(name: str, before: int, after: int) -> None:
        norm(f"{name}.norm1", before)
        put(f"{name}.conv1", after, before, 3, 3)
        put(f"{name}.temb_proj", after, 4 * base)
        norm(f"{name}.norm2", after)
        put(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            put(f"{name}.nin_shortcut", after, before, 1, 1)

    def attention(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            put(f"{name}.{part}", width, width, 1, 1)

    put("temb.dense.0", 4 * base, base)
    put("temb.dense.1", 4 * base, 4 * base)
    put("conv_in", base, 3, 3, 3)
    width, skips = base, [base]
    for level, mult in enumerate(settings.mult):
        for block in range(settings.blocks):
            resnet(f"down.{level}.block.{block}", width, mult * base)
            width = mult * base
            if level in settings.attention:
                attention(f"down.{level}.attn.{block}", width)
            skips.append(width)
        if level < levels - 1:
            put(f"down.{level}.downsample.conv", width, width, 3, 3)
            skips.append(width)
    resnet("mid.block_1", width, width)
    attention("mid.attn_1", width)
    resnet("mid.block_2", width, width)
    for level in reversed(range(levels)):
        for block in range(settings.blocks + 1):
            resnet(f"up.{level}.block.{block}", width + skips.pop(), settings.mult[level] * base)
            width = settings.mult[level] * base
            if level in settings.attention:
                attention(f"up.{level}.attn.{block}", width)
        if level:
            put(f"up.{level}.upsample.conv", width, width, 3, 3)
    norm("norm_out", width)
    put("conv_out", 3, width, 3, 3)
    return weights


class Network:
    """Calls the original network in the type of `x`."""

    def __init__(self, weights: Weights, settings: Settings):
        self.weights, self.settings = weights, settings

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.w = {name: value.to(x.dtype) for name, value in self.weights.items()}
        levels = len(self.settings.mult)
        emb = self.linear("temb.dense.1", F.silu(self.linear("temb.dense.0", self.embed(t).to(x.dtype))))
        h = self.conv("conv_in", x, padding=1)
        skips = [h]
        for level in range(levels):
            for block in range(self.settings.blocks):
                h = self.unit(f"down.{level}", block, h, emb)
                skips.append(h)
            if level < levels - 1:  # one row and one column of zeros, below and to the right only
                h = self.conv(f"down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
                skips.append(h)
        h = self.resnet("mid.block_2", self.attention("mid.attn_1", self.resnet("mid.block_1", h, emb)), emb)
        for level in reversed(range(levels)):
            for block in range(self.settings.blocks + 1):
                h = self.unit(f"up.{level}", block, torch.cat([h, skips.pop()], dim=1), emb)
            if level:
                h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                h = self.conv(f"up.{level}.upsample.conv", h, padding=1)
        return self.conv("conv_out", F.silu(self.norm("norm_out", h)), padding=1)

    def embed(self, t: Tensor) -> Tensor:
        """sin first, then cos, of t / 10000^(i / (half - 1)), in float32."""
        half = self.settings.channels // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - 1))
        angles = t.float()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **options)

    def norm(self, name: str, x: Tensor) -> Tensor:
        parts = x.reshape(len(x), 32, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, keepdim=True, correction=0) + 1e-6).sqrt()
        weight, bias = (self.w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return parts.reshape(x.shape) * weight + bias

    def unit(self, level: str, block: int, h: Tensor, emb: Tensor) -> Tensor:
        h = self.resnet(f"{level}.block.{block}", h, emb)
        has = f"{level}.attn.{block}.q.weight" in self.w
        return self.attention(f"{level}.attn.{block}", h) if has else h

    def resnet(self, name: str, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = h + self.linear(f"{name}.temb_proj", F.silu(emb))[:, :, None, None]
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.w else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in ("q", "k", "v"))
        scores = torch.einsum("bcn,bcm->bnm", q, k) * x.shape[1] ** -0.5
        mixed = torch.einsum("bnm,bcm->bcn", scores.softmax(-1), v).view(x.shape)
        return x + self.conv(f"{name}.proj_out", mixed)
