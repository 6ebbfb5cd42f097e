"""Which layers to leave in float for a budget, by what rounding each does to the output (its share of the error).

The cost of a layer is what the budget counts. Of a number of layers each costs one, so the largest shares are taken. A
target asks for the fewest multiply-adds in float that meet it: a covering knapsack, solved exactly. Both trust that the
squared errors of layers add up (`sensitivity`); with S in float::

    relative L2 = sqrt( floor**2 + (all**2 - floor**2) (1 - sum of shares in S / sum of all shares) )

all: with every layer in INT8. floor: with none of them, of what is rounded beside them (layers of time, attention).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

FINE: Final = 1e4
"""Costs are multiplied by it: the solver stops at a difference of 1e-6."""
FEWER: Final = 1e-7
"""What a layer costs beside its multiply-adds, as a share of all: of equal costs, the fewest layers."""


@dataclass(frozen=True)
class Sensitivity:
    """What is known of a network's layers. shares: of the squared error of the output, by layer that may stay in float.
    macs: multiply-adds of all layers, by name. all_int8, floor: relative L2 of a call, as in the formula above."""

    shares: Mapping[str, float]
    macs: Mapping[str, int]
    all_int8: float
    floor: float

    def cost(self, names: Collection[str]) -> float:
        """The share of the network's multiply-adds that some layers make."""
        return sum(self.macs.get(name, 0) for name in names) / max(sum(self.macs.values()), 1)

    def share(self, name: str) -> float:
        """A layer's share of the error, of a sum of 1."""
        return self.shares[name] / (sum(self.shares.values()) or 1.0)

    def predicted(self, names: Collection[str]) -> float:
        """The relative L2 of a call with these layers in float."""
        left = max(1.0 - sum(map(self.share, names)), 0.0)
        return (self.floor**2 + max(self.all_int8**2 - self.floor**2, 0.0) * left) ** 0.5

    def needed(self, target: float) -> float:
        """The sum of shares, of 1, that must be in float for a relative L2; above 1 where no choice meets it."""
        room = self.all_int8**2 - self.floor**2
        if target >= self.all_int8:
            return 0.0
        return (self.all_int8**2 - target**2) / room if room > 0 else float("inf")

    def by_worth(self) -> list[str]:
        """The layers by error for their multiply-adds, the most first."""
        return sorted(self.shares, key=lambda name: -self.shares[name] / max(self.macs.get(name, 0), 1))

    def most_sensitive(self, number: int) -> list[str]:
        """The layers with the largest shares; of equal ones, those with fewer multiply-adds."""
        ranked = sorted(self.shares, key=lambda name: (-self.shares[name], self.macs.get(name, 0)))
        return ranked[:number]

    def cheapest(self, target: float, within: Collection[str] = ()) -> list[str] | None:
        """The layers with the fewest multiply-adds, `within` among them, that are predicted to meet a relative L2 and
        leave one layer in INT8 at least; None if there are none."""
        names, needed = list(self.shares), self.needed(target)
        if needed <= 0.0 and not within:
            return []
        shares = np.array([self.share(name) for name in names])
        costs = np.array([FINE * (self.cost([name]) + FEWER) for name in names])
        rows = [
            LinearConstraint(shares[None], lb=min(needed, 2.0), ub=np.inf),
            LinearConstraint(np.ones((1, len(names))), lb=0, ub=len(names) - 1),
        ]
        least: Any = np.array([float(name in within) for name in names])
        found = milp(costs, integrality=np.ones(len(names)), bounds=Bounds(least, 1.0), constraints=rows)
        if found.x is None:
            return None
        return [name for name, taken in zip(names, found.x, strict=True) if taken > 0.5]


def in_order(names: Collection[str], ranked: Sequence[str]) -> list[str]:
    """Some names in the order of a longer list."""
    return [name for name in ranked if name in names]
