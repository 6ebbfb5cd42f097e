"""The data's side of a Fréchet distance: fitted to pictures, or read from a published statistics file.

The reference files of guided-diffusion's evaluator hold `mu`, `sigma` of the pooled features of the standard Inception
network and `mu_s`, `sigma_s` of the spatial ones, which TensorFlow lays out place by place, channels last.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.features import Features
from ptq4dm.evaluation.frechet import Gaussian, gaussian
from ptq4dm.evaluation.inception import SPATIAL_CHANNELS

KEYS: Final = ("mu", "sigma", "mu_s", "sigma_s")
POOLED: Final = 2048
SIDE: Final = 17
"""The spatial map is SIDE x SIDE places."""


@dataclass(frozen=True)
class DataStatistics:
    """What generated pictures are measured against. what: where it came from."""

    pooled: Gaussian
    spatial: Gaussian
    what: str


def statistics_of(features: Features, what: str) -> DataStatistics:
    """Fitted to the features of the data's pictures."""
    return DataStatistics(gaussian(features.pooled), gaussian(features.spatial), what)


def read_statistics(path: Path) -> DataStatistics:
    """A published statistics file (.npz), for the standard Inception network. Raises EvaluationError."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file.files]
            if missing:
                raise EvaluationError(f"{path} lacks {', '.join(missing)}: give a reference file of guided-diffusion's "
                                      "evaluator, or a folder with the data's pictures")  # fmt: skip
            mu, sigma, mu_s, sigma_s = (np.asarray(file[key], dtype=np.float64) for key in KEYS)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise EvaluationError(
            f"{path} is no statistics file (.npz) that can be read ({error}): get it again"
        ) from error
    order = np.arange(SIDE * SIDE * SPATIAL_CHANNELS).reshape(SIDE, SIDE, SPATIAL_CHANNELS).transpose(2, 0, 1).ravel()
    for name, mean, covariance, width in (("mu", mu, sigma, POOLED), ("mu_s", mu_s, sigma_s, len(order))):
        if mean.shape != (width,) or covariance.shape != (width, width):
            raise EvaluationError(
                f"{path}: {name} is {mean.shape} with a covariance of {covariance.shape}, not of {width} features"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise EvaluationError(f"{path}: {name} or its covariance holds NaN or infinity")
    spatial = gaussian_of(mu_s[order], sigma_s[np.ix_(order, order)])
    return DataStatistics(gaussian_of(mu, sigma), spatial, path.name)


def gaussian_of(mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    """A Gaussian of its mean and covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return Gaussian(mean, vectors * np.sqrt(values.clip(min=0.0)))
