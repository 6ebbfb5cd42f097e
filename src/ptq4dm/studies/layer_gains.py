"""How strongly the network's answer follows an error in the input of each layer.

Rounding a layer's input adds an error e to it that is all but white. With J the derivative of the network's answer by
that input, the answer's error has the mean square ‖J‖²_F times that of an element of e. For a random v of independent
elements of variance 1, E ‖Jᵀv‖² = ‖J‖²_F, so that one walk back through the network tells it for all layers at once
(Hutchinson, Commun. Stat. Simul. Comput. 19, 1990).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.pipelines.denoiser import layer_input, output_tensor
from ptq4dm.progress import progress


def layer_gains(
    network: nn.Module,
    layers: Sequence[str],
    timesteps: Tensor,
    x_t: Tensor,
    smoothing: Mapping[str, Tensor],
    seed: int,
    shown: bool = False,
) -> dict[str, Tensor]:
    """By layer (visits,) float64: ‖J‖²_F at each visit, mean over pictures.

    timesteps: (visits,). x_t: (visits, pictures, c, h, w). smoothing: what the inputs of layers are divided by before
    they are rounded; J is by the divided input.
    """
    generator = torch.Generator().manual_seed(seed)
    gains = {name: torch.zeros(len(timesteps), dtype=torch.float64) for name in layers}
    with progress("what layers do", len(timesteps), shown) as advance:
        for index, (timestep, pictures) in enumerate(zip(timesteps, x_t, strict=True)):
            for name, gradient in gradients(network, layers, pictures, timestep, generator).items():
                gradient = scaled(network.get_submodule(name), gradient, smoothing.get(name))
                gains[name][index] = float(gradient.square().sum()) / len(pictures)
            advance(1)
    return gains


def gradients(
    network: nn.Module, layers: Sequence[str], x_t: Tensor, timestep: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Jᵀv of each layer that the network calls, a v of signs drawn for every picture. A layer that is called several
    times has the gradients of its calls side by side."""
    with torch.enable_grad(), marked_inputs(network, layers) as inputs:
        output = output_tensor(network(x_t.clone().requires_grad_(True), timestep))
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
        marked = [(name, node) for name, nodes in inputs.items() for node in nodes]
        found = torch.autograd.grad((output * signs).sum(), [node for _, node in marked], allow_unused=True)
    parts: dict[str, list[Tensor]] = {}
    for (name, node), gradient in zip(marked, found, strict=True):
        parts.setdefault(name, []).append(torch.zeros_like(node) if gradient is None else gradient.detach())
    return {name: torch.cat(pieces) for name, pieces in parts.items()}


@contextmanager
def marked_inputs(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """By layer its inputs while inside, each apart from those of other layers that are given the same tensor."""
    found: dict[str, list[Tensor]] = {}

    def marker(name: str) -> Any:
        def mark(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            own = layer_input(args, kwargs)
            own = own.view_as(own) if own.requires_grad else own.detach().requires_grad_(True)
            found.setdefault(name, []).append(own)
            return ((own, *args[1:]), kwargs) if args else (args, {**kwargs, "input": own})

        return mark

    hooks = [network.get_submodule(name).register_forward_pre_hook(marker(name), with_kwargs=True) for name in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def scaled(layer: nn.Module, gradient: Tensor, factors: Tensor | None) -> Tensor:
    """The gradient by the input that was divided by `factors` (channels,), given that by the input itself."""
    if factors is None:
        return gradient.double()
    last = isinstance(layer, nn.Linear)
    shape = [1] * gradient.dim()
    shape[-1 if last else 1] = -1
    return gradient.double() * factors.to(gradient).double().view(shape)
