"""Many skew normals, and which of them suits a weighting of the time-steps best."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import skewnorm
from torch import Tensor

from ptq4dm.calibration.sources import nearest_visits
from ptq4dm.numerics import ACTIVATION_MAX
from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.many_laws import losses, ranges_of_laws
from ptq4dm.ranges.metrics import RangeRule, make_metric
from ptq4dm.recipe import RangeRecipe

LOCATIONS, SCALES, SHAPES = (0.0, 1.0), (0.05, 1.0), (-6.0, 6.0)
"""From where to where, in the units of `calibration.timesteps.ndtc`."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Laws: the options of `ndtc`, and the shares (laws, visits) of the visits under each."""

    options: tuple[dict[str, float], ...]
    shares: Tensor


def make_grid(side: int, visited: Tensor, num_train_timesteps: int) -> Grid:
    """`side` values of location, of scale and of shape, in all combinations."""
    values = [torch.linspace(*ends, side).tolist() for ends in (LOCATIONS, SCALES, SHAPES)]
    options: list[dict[str, float]] = [
        {"location": location, "scale": scale, "shape": shape} for location, scale, shape in itertools.product(*values)
    ]
    return Grid(tuple(options), skew_normal_visits(options, visited, num_train_timesteps))


def skew_normal_visits(options: Sequence[Mapping[str, float]], visited: Tensor, num_train_timesteps: int) -> Tensor:
    """(laws, visits) float64: `visit_shares` of `time_shares` of each clipped skew normal, its distribution function
    computed where the nearest visit changes and nowhere else, since it is slow."""
    visit = nearest_visits(visited, torch.arange(num_train_timesteps))
    starts = visit.diff().nonzero().squeeze(1) + 1
    edges = (starts.numpy() - 0.5) / num_train_timesteps
    location, scale, shape = (np.array([[item[name]] for item in options]) for name in ("location", "scale", "shape"))
    below = skewnorm.cdf(edges, shape, location, scale)
    ends = np.ones((len(options), 1))
    mass = torch.from_numpy(np.diff(np.hstack([0 * ends, below, ends])))
    places = visit[torch.cat([torch.zeros(1, dtype=torch.int64), starts])]
    return torch.zeros(len(options), len(visited), dtype=torch.float64).index_add_(1, places, mass)


def nearest(grid: Grid, shares: Tensor) -> dict[str, float]:
    """The options of the law whose shares of the visits are least away from `shares` (visits,), in total variation."""
    distances = (grid.shares - shares.double()).abs().sum(1) / 2
    return grid.options[int(distances.argmin())]


def best_for_layers(
    statistics: Mapping[str, LayerStatistics],
    laws: Tensor,
    weights: Mapping[str, Tensor],
    recipe: RangeRecipe,
    shown: bool = False,
) -> dict[str, int]:
    """By layer which law's range has the least loss, the loss of each band weighted with `weights` of the layer.

    laws: (laws, bands), the shares that each gives to each band. weights: by layer (bands,).
    """
    metric = make_metric(recipe.metric, recipe.metric_options)
    ranges = ranges_of_laws(statistics, laws, recipe, shown)
    assert not isinstance(metric, RangeRule)  # ranges_of_laws refuses those
    found = {}
    for name, item in statistics.items():
        chosen = list(dict.fromkeys((one.scale, one.zero_point) for one in ranges[name]))
        scale, zero_point = (torch.tensor(side, dtype=torch.float32) for side in zip(*chosen, strict=True))
        loss = losses(item, scale, zero_point, metric, ACTIVATION_MAX) @ weights[name].double()
        winner = chosen[int(loss.argmin())]
        found[name] = next(index for index, one in enumerate(ranges[name]) if (one.scale, one.zero_point) == winner)
    return found
