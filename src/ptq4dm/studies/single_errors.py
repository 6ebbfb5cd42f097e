"""What each layer contributes to the error of the network: one layer quantized at a time, and all together.

With l_c the relative L2 of call c where all layers are quantized, and a_ic that where layer i alone is, the layer's
share of the squared error is averaged over calls, each with the weight l_c::

    share_i = sum_c l_c (a_ic / l_c)**2 / sum_c l_c

which is, to first order, what the layer contributes to the mean relative L2 of a call. Errors of independent layers add
up as squares: then the shares sum up to 1 (`additivity`). A sum above 1 says that errors partly cancel, one below that
they reinforce each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptq4dm.progress import progress
from ptq4dm.quantization.sensitivity import instead
from ptq4dm.studies.float_walk import FloatWalk, errors_along
from ptq4dm.studies.integer_products import integer_products


@dataclass(frozen=True, eq=False)
class SingleErrors:
    """alone: by layer, and whole: squared relative errors of calls, (pictures, calls) float64."""

    alone: Mapping[str, Tensor]
    whole: Tensor

    def shares(self) -> dict[str, float]:
        """The formula above; 0 for all where there is no error."""
        return {name: weighted(item, self.whole) for name, item in self.alone.items()}

    def additivity(self) -> float:
        """The sum of the shares: 1 where errors add up as independent ones."""
        return sum(self.shares().values())

    def additivity_at(self) -> list[float]:
        """The sum of the single squares over the square of all together, at each call's time-step."""
        together = torch.stack(list(self.alone.values())).sum(0).mean(0)
        return (together / self.whole.mean(0).clamp(min=torch.finfo(torch.float64).tiny)).tolist()


def single_errors(
    network: nn.Module, layers: Mapping[str, nn.Module], walked: FloatWalk, batch_size: int, shown: bool
) -> SingleErrors:
    """Measure every layer alone, and all together, on the calls of a float walk.

    network: the float network. layers: the quantized form of its layers.
    """

    def squared(chosen: Mapping[str, nn.Module]) -> Tensor:
        with instead(network, chosen), integer_products(chosen.values()):
            return errors_along(walked, network, batch_size, False).relative_l2.square()

    alone: dict[str, Tensor] = {}
    with progress("one layer at a time", len(layers) + 1, shown) as advance:
        whole = squared(layers)
        advance(1)
        for name, layer in layers.items():
            alone[name] = squared({name: layer})
            advance(1)
    return SingleErrors(alone, whole)


def weighted(alone: Tensor, whole: Tensor) -> float:
    """sum l (alone / l**2) / sum l over the calls that have an error, with l the root of `whole`."""
    level = whole.sqrt()
    counted = level > 0
    total = float(level.sum())
    return float((alone[counted] / level[counted]).sum()) / total if total else 0.0


def thinned(walked: FloatWalk, calls: int) -> FloatWalk:
    """A float walk with at most so many of its calls, evenly spaced."""
    last = len(walked.timesteps) - 1
    kept = sorted({round(index * last / max(1, calls - 1)) for index in range(calls)})
    return FloatWalk(walked.timesteps[kept], walked.x_t[kept], walked.outputs[kept], walked.pictures)
