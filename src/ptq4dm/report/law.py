"""The density of the time-step law that a calibration names, to draw over the time-steps that it drew."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import skewnorm


@dataclass(frozen=True)
class LawDensity:
    """A density over t. t, density: the curve inside [0, T - 1]; below, above: mass that clipping moves to the ends."""

    t: tuple[float, ...]
    density: tuple[float, ...]
    below: float = 0.0
    above: float = 0.0


def law_density(calibration: Mapping[str, Any], points: int = 161) -> LawDensity | None:
    """The density of the law of a calibration, from the law's formula; None if unknown."""
    total = calibration.get("num_train_timesteps")
    if not total or total < 2:
        return None
    t = np.linspace(0, total - 1, points)
    options = calibration.get("law_options") or {}
    if calibration.get("law") == "uniform":
        return LawDensity(tuple(t), tuple(np.full(points, 1 / total)))
    chosen = {key: options[key] for key in NDTC_OPTIONS if key in options}
    if calibration.get("law") == "ndtc" and all(isinstance(value, NDTC_OPTIONS[key]) for key, value in chosen.items()):
        return skew_normal_density(t, total, **chosen)
    return None


NDTC_OPTIONS = {"location": (int, float), "scale": (int, float), "shape": (int, float), "overflow": (str,)}


def skew_normal_density(
    t: np.ndarray, total: int, location: float = 0.4, scale: float = 0.4, shape: float = 0.0, overflow: str = "clip"
) -> LawDensity:
    """The skew normal of `calibration.timesteps.ndtc` at t; a drawn value is rounded, so [0, T - 1] is +- 1/2 wide."""
    law = {"a": shape, "loc": location * total, "scale": scale * total}
    below, above = float(skewnorm.cdf(-0.5, **law)), float(skewnorm.sf(total - 0.5, **law))
    density = skewnorm.pdf(t, **law)
    if overflow == "resample":
        return LawDensity(tuple(t), tuple(density / (1 - below - above)))
    return LawDensity(tuple(t), tuple(density), below, above)
