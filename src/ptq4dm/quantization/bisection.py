"""The layers whose rounding harms the output most, found in fewer calls than one by one: by halving.

The errors of layers add up as independent ones (`sensitivity`), so a group of layers that makes little error holds no
layer that makes much, and is not looked into. The group that makes the most is always halved next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ptq4dm.pipelines.denoiser import Call
from ptq4dm.progress import progress
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.sensitivity import WORTH, error_shares, instead, outputs, squared_errors, taken_of


@dataclass
class Meter:
    """Measures shares of the squared error as `error_shares` does, of groups. made: how many calls that took."""

    network: nn.Module
    layers: Mapping[str, QuantizedLayer]
    calls: Sequence[Call]
    made: int = 0
    expected: list[list[Tensor]] = field(default_factory=list)
    whole: list[Tensor] = field(default_factory=list)

    def begin(self) -> None:
        """Answer the calls with the float network and with all layers quantized."""
        self.expected = [outputs(self.network, call) for call in self.calls]
        self.made += len(self.calls)
        self.whole = self.errors(list(self.layers))

    def errors(self, names: Sequence[str]) -> list[Tensor]:
        """The squared error of each row of each call where only the layers of these names are quantized."""
        self.made += len(self.calls)
        with instead(self.network, {name: self.layers[name] for name in names}):
            return [
                squared_errors(outputs(self.network, call), wanted)
                for call, wanted in zip(self.calls, self.expected, strict=True)
            ]

    def share(self, names: Sequence[str]) -> float:
        """The share of the error that these layers make, averaged over rows."""
        alone, whole = torch.cat(self.errors(names)), torch.cat(self.whole)
        counted = whole > 0
        return float((alone[counted] / whole[counted]).mean()) if bool(counted.any()) else 0.0


@torch.no_grad()
def shares_within(
    network: nn.Module,
    layers: Mapping[str, QuantizedLayer],
    calls: Sequence[Call],
    limit: int | None = None,
    shown: bool = False,
) -> tuple[dict[str, float], int]:
    """Layers with their shares of the squared error of the output, and how many calls of the network that took.

    limit: at most so many. Without one, or where it is enough for that, every layer is measured alone
    (`error_shares`); else those that are reached by halving groups: layers of less than `WORTH` are left out, and
    where the limit ends the search, others too.
    """
    taken = taken_of(calls)
    alone = len(taken) * (2 + len(layers))
    if limit is None or alone <= limit:
        return error_shares(network, layers, calls, shown), alone
    if len(layers) == 1:
        return dict.fromkeys(layers, 1.0), 0
    meter = Meter(network, layers, taken)
    groups: list[tuple[float, tuple[str, ...]]] = [(1.0, tuple(layers))]
    found: dict[str, float] = {}
    if 4 * len(taken) > limit:  # not even one halving
        return found, 0
    with progress("sensitivity", limit, shown) as advance:
        meter.begin()
        advance(meter.made)
        while groups and meter.made + 2 * len(taken) <= limit:
            groups.sort()
            _, names = groups.pop()
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                share = meter.share(half)
                advance(len(taken))
                if share < WORTH:
                    continue
                if len(half) == 1:
                    found[half[0]] = share
                else:
                    groups.append((share, half))
    return found, meter.made
