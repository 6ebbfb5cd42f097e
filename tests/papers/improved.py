"""The network of improved-diffusion and guided-diffusion, as functions of a dict of weights in its original layout."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    channels: int = 32
    mult: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (2,)
    """At which downsampling factors attention stands."""
    heads: int = 4
    head_channels: int = -1
    new_order: bool = False
    learn_sigma: bool = True
    scale_shift: bool = True
    updown: bool = False
    classes: int | None = None
    plan: list[list[str]] = field(default_factory=list, compare=False)

    def heads_at(self, width: int) -> int:
        return self.heads if self.head_channels == -1 else width // self.head_channels


class Maker:
    """Random weights, named as the original names them."""

    def __init__(self, settings: Settings, seed: int):
        self.settings, self.weights = settings, {}
        self.generator = torch.Generator().manual_seed(seed)

    def put(self, name: str, *shape: int) -> None:
        fan = math.prod(shape[1:])
        self.weights[f"{name}.weight"] = torch.randn(shape, generator=self.generator) / fan**0.5
        self.weights[f"{name}.bias"] = torch.randn(shape[0], generator=self.generator) * 0.2

    def norm(self, name: str, width: int) -> None:
        self.weights[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=self.generator)
        self.weights[f"{name}.bias"] = 0.3 * torch.randn(width, generator=self.generator)

    def resnet(self, name: str, before: int, after: int) -> None:
        embedding = 4 * self.settings.channels
        self.norm(f"{name}.in_layers.0", before)
        self.put(f"{name}.in_layers.2", after, before, 3, 3)
        self.put(f"{name}.emb_layers.1", after * (2 if self.settings.scale_shift else 1), embedding)
        self.norm(f"{name}.out_layers.0", after)
        self.put(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            self.put(f"{name}.skip_connection", after, before, 1, 1)

    def attention(self, name: str, width: int) -> None:
        self.norm(f"{name}.norm", width)
        self.put(f"{name}.qkv", 3 * width, width, 1)
        self.put(f"{name}.proj_out", width, width, 1)

    def resampler(self, name: str, width: int, layer: str) -> None:
        if self.settings.updown:
            self.resnet(name, width, width)
        else:
            self.put(f"{name}.{layer}", width, width, 3, 3)


def random_weights(settings: Settings, seed: int = 0) -> Weights:
    """A checkpoint of the original with random weights."""
    make, base = Maker(settings, seed), settings.channels
    make.put("time_embed.0", 4 * base, base)
    make.put("time_embed.2", 4 * base, 4 * base)
    if settings.classes:
        make.weights["label_emb.weight"] = torch.randn(settings.classes, 4 * base, generator=make.generator)
    make.put("input_blocks.0.0", base, 3, 3, 3)
    skips, width, factor, place = [base], base, 1, 1
    for level, mult in enumerate(settings.mult):
        for _ in range(settings.blocks):
            make.resnet(f"input_blocks.{place}.0", width, mult * base)
            width = mult * base
            if factor in settings.attention:
                make.attention(f"input_blocks.{place}.1", width)
            skips.append(width)
            place += 1
        if level < len(settings.mult) - 1:
            make.resampler(f"input_blocks.{place}.0", width, "op")
            skips.append(width)
            place, factor = place + 1, factor * 2
    make.resnet("middle_block.0", width, width)
    make.attention("middle_block.1", width)
    make.resnet("middle_block.2", width, width)
    place = 0
    for level in reversed(range(len(settings.mult))):
        for block in range(settings.blocks + 1):
            make.resnet(f"output_blocks.{place}.0", width + skips.pop(), settings.mult[level] * base)
            width, tail = settings.mult[level] * base, 1
            if factor in settings.attention:
                make.attention(f"output_blocks.{place}.1", width)
                tail = 2
            if level and block == settings.blocks:
                make.resampler(f"output_blocks.{place}.{tail}", width, "conv")
                factor //= 2
            place += 1
    make.norm("out.0", width)
    make.put("out.2", 6 if settings.learn_sigma else 3, width, 3, 3)
    return make.weights


class Network:
    """Calls the original network in the type of `x`. t: time-steps as the network sees them (rescaled before)."""

    def __init__(self, weights: Weights, settings: Settings):
        self.weights, self.settings = weights, settings

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.w = {name: value.to(x.dtype) for name, value in self.weights.items()}
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", self.embed(t).to(x.dtype))))
        if y is not None:
            emb = emb + self.w["label_emb.weight"][y]
        h, skips = x, []
        for place in range(self.count("input_blocks")):
            h = self.block(f"input_blocks.{place}", h, emb, down=True)
            skips.append(h)
        h = self.resnet("middle_block.0", h, emb)
        h = self.resnet("middle_block.2", self.attention("middle_block.1", h), emb)
        for place in range(self.count("output_blocks")):
            h = self.block(f"output_blocks.{place}", torch.cat([h, skips.pop()], dim=1), emb, down=False)
        return self.conv("out.2", F.silu(self.norm("out.0", h)), padding=1)

    def embed(self, t: Tensor) -> Tensor:
        """cos first, then sin, of t / 10000^(i / half), in float32 as the original computes it."""
        half = self.settings.channels // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = t.float()[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    def count(self, group: str) -> int:
        return 1 + max(int(name.split(".")[1]) for name in self.w if name.startswith(group))

    def has(self, layer: str) -> bool:
        return f"{layer}.weight" in self.w

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **options)

    def norm(self, name: str, x: Tensor) -> Tensor:
        parts = x.reshape(len(x), 32, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (parts.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
        channel = (1, -1) + (1,) * (x.dim() - 2)
        weight, bias = self.w[f"{name}.weight"].view(channel), self.w[f"{name}.bias"].view(channel)
        return parts.reshape(x.shape) * weight + bias

    def block(self, name: str, h: Tensor, emb: Tensor, down: bool) -> Tensor:
        for part in range(3):
            own = f"{name}.{part}"
            if self.has(f"{own}.op"):
                h = self.conv(f"{own}.op", h, stride=2, padding=1)
            elif self.has(f"{own}.conv"):
                h = self.conv(f"{own}.conv", enlarged(h), padding=1)
            elif self.has(f"{own}.qkv"):
                h = self.attention(own, h)
            elif self.has(f"{own}.in_layers.2"):
                h = self.resnet(own, h, emb, self.change(own, down))
            elif self.has(own):
                h = self.conv(own, h, padding=1)
        return h

    def change(self, name: str, down: bool) -> str:
        """Whether a residual block of a network with `updown` halves or doubles the picture: the last of a level."""
        _, place, part = name.split(".")
        period = self.settings.blocks + 1
        if not self.settings.updown:
            return ""
        if down:
            return "halve" if int(place) % period == 0 else ""
        return "double" if int(part) else ""

    def resnet(self, name: str, x: Tensor, emb: Tensor, change: str = "") -> Tensor:
        h = F.silu(self.norm(f"{name}.in_layers.0", x))
        if change:
            resize = halved if change == "halve" else enlarged
            h, x = resize(h), resize(x)
        h = self.conv(f"{name}.in_layers.2", h, padding=1)
        e = self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        if self.settings.scale_shift:
            width = h.shape[1]
            h = self.norm(f"{name}.out_layers.0", h) * (1 + e[:, :width]) + e[:, width:]
        else:
            h = self.norm(f"{name}.out_layers.0", h + e)
        h = self.conv(f"{name}.out_layers.3", F.silu(h), padding=1)
        return h + (self.conv(f"{name}.skip_connection", x) if self.has(f"{name}.skip_connection") else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        batch, width = x.shape[:2]
        heads = self.settings.heads_at(width)
        flat = x.flatten(2)
        rows = torch.einsum("oc,bcn->bon", self.w[f"{name}.qkv.weight"][..., 0], self.norm(f"{name}.norm", flat))
        rows = rows + self.w[f"{name}.qkv.bias"][:, None]
        if self.settings.new_order:
            q, k, v = rows.view(batch, 3, heads, width // heads, -1).unbind(1)
        else:
            q, k, v = rows.view(batch, heads, 3, width // heads, -1).unbind(2)
        scores = torch.einsum("bhcn,bhcm->bhnm", q, k) / (width // heads) ** 0.5
        mixed = torch.einsum("bhnm,bhcm->bhcn", scores.softmax(-1), v).reshape(batch, width, -1)
        out = torch.einsum("oc,bcn->bon", self.w[f"{name}.proj_out.weight"][..., 0], mixed)
        return x + (out + self.w[f"{name}.proj_out.bias"][:, None]).view(x.shape)


def enlarged(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x: Tensor) -> Tensor:
    return x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
