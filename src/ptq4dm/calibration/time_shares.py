"""The law of time-steps as numbers: how likely each t is, and each visit of a trajectory that t is snapped to."""

import inspect
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from scipy.stats import skewnorm
from torch import Tensor

from ptq4dm.calibration.sources import nearest_visits
from ptq4dm.calibration.timesteps import LAWS, TimestepLaw, draw_timesteps, resolve_law

DRAWS: Final = 1 << 20
"""How often a law of the user's own is drawn to know its shares, which is right to about one in a thousand."""


def time_shares(
    law: str | TimestepLaw, options: Mapping[str, Any] | None, num_train_timesteps: int, seed: int = 0
) -> Tensor:
    """p(t) of a law, (T,) float64 that sums to 1: computed for the built-in laws, drawn for others. Raises RecipeError.

    `explicit` gives each listed time-step its share of the list.
    """
    drawing = resolve_law(law, options)
    if law == "uniform":
        return torch.full((num_train_timesteps,), 1 / num_train_timesteps, dtype=torch.float64)
    if law == "ndtc":
        return torch.from_numpy(skew_normal_shares(num_train_timesteps, **ndtc_options(options or {})))
    draws = {"single": 1, "explicit": len((options or {}).get("timesteps", ()))}.get(str(law), DRAWS)
    drawn = draw_timesteps(drawing, draws, num_train_timesteps, np.random.default_rng(seed))
    counts = np.bincount(drawn, minlength=num_train_timesteps)
    return torch.from_numpy(counts / counts.sum())


def ndtc_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `ndtc` with its defaults."""
    defaults = {name: item.default for name, item in inspect.signature(LAWS["ndtc"]).parameters.items()}
    return {**defaults, **options}


def skew_normal_shares(total: int, location: float, scale: float, shape: float, overflow: str) -> np.ndarray:
    """p(t) of `calibration.timesteps.ndtc`: the mass of the skew normal within half a step of t; what lies outside is
    moved to the ends (`clip`) or spread over all in proportion (`resample`)."""
    edges = (np.arange(total + 1) - 0.5) / total
    mass = np.diff(skewnorm.cdf(edges, shape, location, scale))
    if overflow == "resample":
        return mass / mass.sum()
    mass[0] += skewnorm.cdf(edges[0], shape, location, scale)
    mass[-1] += skewnorm.sf(edges[-1], shape, location, scale)
    return mass / mass.sum()


def visit_shares(shares: Tensor, visited: Tensor) -> Tensor:
    """The share of each visited time-step, (visits,) float64, under p(t) (T,): each t goes to the nearest visit."""
    nearest = nearest_visits(visited, torch.arange(len(shares)))
    return torch.zeros(len(visited), dtype=torch.float64).index_add_(0, nearest, shares.double())
