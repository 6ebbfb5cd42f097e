"""The networks that are timed: random weights in real shapes, quantized by their own ranges on one random call.

Speed depends on neither weights nor ranges. All wide convolutions and linear layers are in INT8; those that follow the
time-step alone have weights in 8 bits and float inputs, the first of those and the first and last convolution are in
float, as in the default recipe (`float_share = 0`). Each layer in INT8 has a smoothing of its own, a number a channel,
as that recipe gives it one: so a step a channel, and queries, keys and values of one normalisation that round apart.
That decides what is run; the numbers are drawn at random.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from ptq4dm.numerics import asymmetric_params
from ptq4dm.quantization.layers import QuantizedLayer, quantized_form, weight_of
from ptq4dm.quantization.plan import make_plan, planned
from ptq4dm.quantization.rewrite import with_layers
from ptq4dm.quantization.weight_only import WeightOnlyLayer, empty_weight_only_form

OF_TIME = ("time_emb", "time_embedding", "timestep_embedder", "class_embedder", "emb.", "norm1.linear")
"""Parts of the names of layers that follow the time-step (or the label) alone."""
SMOOTHED = (0.7, 1.4)
"""Between what the smoothing of a channel is drawn."""


@dataclass(frozen=True)
class Subject:
    """A network, its batch in the tables, and the arguments of a call: (batch, generator, device, dtype) -> kwargs."""

    build: Callable[[], nn.Module]
    batch: int
    inputs: Callable[[int, torch.Generator, torch.device, torch.dtype], dict[str, Any]]


def noise(generator: torch.Generator, device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device).to(device, dtype)


def unconditional(size: int):
    def inputs(batch: int, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        x = noise(generator, device, dtype, batch, 3, size, size)
        return {"sample": x, "timestep": torch.full((batch,), 500, device=device)}

    return inputs


def of_text(batch: int, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    x = noise(generator, device, dtype, batch, 4, 64, 64)
    states = noise(generator, device, dtype, batch, 77, 768)
    return {"sample": x, "timestep": torch.full((batch,), 500, device=device), "encoder_hidden_states": states}


def of_labels(batch: int, generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    x, labels = noise(generator, device, dtype, batch, 4, 32, 32), torch.arange(batch, device=device) % 1000
    return {"hidden_states": x, "timestep": torch.full((batch,), 500, device=device), "class_labels": labels}


def ddpm_cifar10() -> nn.Module:
    """google/ddpm-cifar10-32 as its config.json has it."""
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def imagenet64() -> nn.Module:
    """improved-diffusion's ImageNet64 network: 128 channels times 1, 2, 3, 4, three residual blocks, learned sigma.

    Time-steps scale and shift; attention at 16 and 8 places. diffusers has one width of heads for all: 64 channels
    here, where improved-diffusion has four heads.
    """
    return UNet2DModel(
        sample_size=64,
        out_channels=6,
        block_out_channels=(128, 256, 384, 512),
        layers_per_block=3,
        attention_head_dim=64,
        resnet_time_scale_shift="scale_shift",
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


def sd15() -> nn.Module:
    """Stable Diffusion 1.5's UNet."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def dit_xl() -> nn.Module:
    """DiT-XL/2 for 256 x 256 pictures."""
    return DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, sample_size=32
    )


def tiny() -> nn.Module:
    """Small enough for a rehearsal in Triton's interpreter."""
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        mid_block_type=None,
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
    )


NETWORKS = {
    "ddpm-cifar10": Subject(ddpm_cifar10, 256, unconditional(32)),
    "imagenet64": Subject(imagenet64, 128, unconditional(64)),
    "sd15": Subject(sd15, 8, of_text),
    "dit-xl": Subject(dit_xl, 16, of_labels),
    "tiny": Subject(tiny, 2, unconditional(8)),
}


def built(name: str, device: torch.device) -> nn.Module:
    """The network with random weights, always the same, in float32."""
    torch.manual_seed(0)
    with torch.device(device):
        return NETWORKS[name].build().eval().requires_grad_(False)


def to_quantize(network: nn.Module) -> list[str]:
    """The layers that run in INT8."""
    return [name for name in planned(make_plan(network, min_channels=8)) if not any(part in name for part in OF_TIME)]


@torch.no_grad()
def quantized(network: nn.Module, inputs: dict[str, Any]) -> nn.Module:
    """The simulated network: weights to the nearest of 255 integers, inputs by their least and largest in one call."""
    names = to_quantize(network)
    layers = {name: network.get_submodule(name) for name in names}
    smoothing = {name: smoothing_of(layer, seed) for seed, (name, layer) in enumerate(layers.items())}
    ends: dict[str, tuple[Tensor, Tensor]] = {}

    def watching(name: str):
        def watch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0] / along_channels(smoothing[name], module)
            ends[name] = x.amin(), x.amax()

        return watch

    hooks = [layer.register_forward_pre_hook(watching(name)) for name, layer in layers.items()]
    network(**inputs)
    for hook in hooks:
        hook.remove()
    forms: dict[str, nn.Module] = {
        name: rounded(layer, smoothing[name], *ends[name]) for name, layer in layers.items() if name in ends
    }
    return with_layers(network, forms | {name: weights_alone(network.get_submodule(name)) for name in of_time(network)})


def smoothing_of(layer: nn.Module, seed: int) -> Tensor:
    """By what each channel of a layer's input is divided, always the same for a seed."""
    weight, (least, most) = weight_of(layer), SMOOTHED
    drawn = torch.rand(weight.shape[1], generator=torch.Generator().manual_seed(seed))
    return (least + (most - least) * drawn).to(weight.device)


def along_channels(values: Tensor, layer: nn.Module) -> Tensor:
    """A value a channel, in the shape that broadcasts against the layer's input, and against its weight."""
    return values.view(-1, *[1] * (weight_of(layer).dim() - 2))


def of_time(network: nn.Module) -> list[str]:
    """The layers that follow the time-step alone, less the first."""
    return [name for name in planned(make_plan(network, min_channels=8)) if any(part in name for part in OF_TIME)][1:]


def weights_alone(layer: nn.Module) -> WeightOnlyLayer:
    """One layer with 8-bit weights and float inputs."""
    weight = weight_of(layer).detach()
    new, scale = empty_weight_only_form(layer).to(weight.device), weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    new.weight.copy_((weight / scale.view(-1, *[1] * (weight.dim() - 1))).round())
    new.weight_scale.copy_(scale)
    if isinstance(layer.bias, Tensor):
        new.bias = layer.bias.detach().float().clone()
    return new.eval()


def rounded(layer: nn.Module, smoothing: Tensor, low: Tensor, high: Tensor) -> QuantizedLayer:
    """One layer in INT8. low, high: of its input divided by the smoothing, by which its weight is multiplied."""
    weight = weight_of(layer).detach() * along_channels(smoothing, layer)
    new = quantized_form(layer).to(low.device)
    scale = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    new.weight.copy_((weight / scale.view(-1, *[1] * (weight.dim() - 1))).round())
    new.weight_scale.copy_(scale)
    new.smoothing = smoothing
    step, zero_point = asymmetric_params(low.float(), high.float())
    new.input_scale.copy_(step)
    new.input_zero_point.copy_(zero_point)
    if isinstance(layer.bias, Tensor):
        new.bias = layer.bias.detach().float().clone()
    return new.eval()
