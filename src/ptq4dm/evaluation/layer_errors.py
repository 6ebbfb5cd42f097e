"""The error of every quantized layer by itself: both layers get the input that the float layer sees."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.evaluation.fidelity import relative_l2
from ptq4dm.pipelines.denoiser import predict
from ptq4dm.quantization.plan import LayerPlan
from ptq4dm.quantization.time_bands import bands_of


def layer_errors(
    float_network: nn.Module,
    quantized_network: nn.Module,
    plan: Iterable[LayerPlan],
    calls: Sequence[tuple[Tensor, Tensor]],
) -> list[dict[str, Any]]:
    """Relative L2 of the output of each quantized layer against the float layer's, on the same float input.

    quantized_network: the simulated one. calls: (x_t, t) given to the float network; the mean over calls is taken.
    Returns `{"name", "kind", "relative_l2"}` in the order of the plan; a layer that no call reaches is left out.
    """
    layers = {item.name: item for item in plan if item.quantized}
    errors: dict[str, list[float]] = {name: [] for name in layers}

    def hook(name: str) -> Any:
        quantized = quantized_network.get_submodule(name)

        def compare(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            got = quantized(inputs[0])
            wanted, got = output.double().reshape(1, -1), got.double().reshape(1, -1)
            errors[name].append(float(relative_l2(wanted, got)))

        return compare

    handles = [float_network.get_submodule(name).register_forward_hook(hook(name)) for name in layers]
    try:
        with torch.no_grad():
            bands = bands_of(quantized_network)
            for x_t, timestep in calls:
                if bands is not None:  # the layers are called by themselves, not by their network
                    bands(quantized_network, (x_t, timestep), {})
                predict(float_network, x_t, timestep)
    finally:
        for handle in handles:
            handle.remove()
    return [
        {"name": name, "kind": item.kind, "relative_l2": sum(errors[name]) / len(errors[name])}
        for name, item in layers.items()
        if errors[name]
    ]
