"""How much of what a layer sees and gives is noise of rounding, at each time-step.

Over all pictures and elements at one time-step, in dB, with sums in float64::

    SQNR of the input  = 10 log10( sum x**2 / sum (x_q - x)**2 )
    SQNR of the output = 10 log10( sum y**2 / sum (y_q - y)**2 )

x is what the float network hands to the layer on its own trajectory, x_q the same rounded to the layer's 8 bits, y the
float layer's answer to x, and y_q the quantized layer's answer to that same x: the layer's own noise, of its input and
of its weights, and none of the layers in front. A bit more is worth 6.02 dB: rounding a uniform signal to 2**b levels
gives 6.02 b dB about its middle. Layers with float inputs, those that follow the time-step alone, have no such noise.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.pipelines.denoiser import layer_input, placement, predict
from ptq4dm.progress import progress
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.studies.float_walk import FloatWalk
from ptq4dm.studies.integer_products import integer_products


@torch.no_grad()
def layer_noise(
    network: nn.Module, layers: Mapping[str, QuantizedLayer], walked: FloatWalk, batch_size: int, shown: bool
) -> dict[str, Tensor]:
    """By layer, sums over the pictures of a float walk: (input and output, signal and noise, calls), float64.

    network: the float network. layers: the quantized form of each of its layers that is to be measured.
    """
    calls, pictures = walked.x_t.shape[:2]
    sums = {name: torch.zeros(2, 2, calls, dtype=torch.float64) for name in layers}
    device, dtype = placement(network)
    now = {name: torch.zeros(2, 2, dtype=torch.float64) for name in layers}

    def hook(name: str) -> Any:
        layer = layers[name]

        def measure(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], y: Tensor) -> None:
            x = layer_input(args, kwargs)
            now[name][0] += signal_and_noise(x, layer.centred_input(x) * layer.input_step().to(x.dtype))
            now[name][1] += signal_and_noise(y, layer(x))

        return measure

    handles = [network.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in layers]
    try:
        with integer_products(layers.values()), progress("noise of layers", calls * pictures, shown) as advance:
            for call, (timestep, x_t) in enumerate(zip(walked.timesteps, walked.x_t, strict=True)):
                for part in x_t.split(batch_size):
                    predict(network, part.to(device, dtype), timestep.to(device))
                    advance(len(part))
                for name, item in now.items():
                    sums[name][:, :, call] = item
                    item.zero_()
    finally:
        for handle in handles:
            handle.remove()
    return sums


def signal_and_noise(wanted: Tensor, got: Tensor) -> Tensor:
    """(2,) float64 on the CPU: the sum of squares of `wanted`, and that of `got - wanted`."""
    wanted, got = wanted.double(), got.double()
    return torch.stack([wanted.square().sum(), (got - wanted).square().sum()]).cpu()


def decibels_of(signal: Tensor, noise: Tensor) -> list[float | None]:
    """10 log10(signal / noise), element by element; None where there is no signal or no noise."""
    known = (signal > 0) & (noise > 0)
    values = 10 * torch.log10(torch.where(known, signal, 1.0) / torch.where(known, noise, 1.0))
    return [value if told else None for value, told in zip(values.tolist(), known.tolist(), strict=True)]
