"""Fréchet distance between two sets of features, plain and spatial.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017,
Eq. 6 (https://arxiv.org/abs/1706.08500), with means m and covariances C of the two sets::

    d² = |m_1 - m_2|² + tr C_1 + tr C_2 - 2 tr (C_1 C_2)^(1/2)

Writing C_2 = R Rᵀ, the eigenvalues of C_1 C_2 that are not zero are those of Rᵀ C_1 R, which is symmetric and no wider
than the rank of C_2. So few reference pictures make the distance cheap, and singular covariances (fewer pictures than
features) need no special case. All in float64.

The number depends on the features *and* on the number of pictures (it is biased upwards, more so with fewer): say
both beside it. Only on the standard Inception network may it be called FID.
"""

from dataclasses import dataclass

import numpy as np

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.bootstrap import Statistic


@dataclass(frozen=True)
class Gaussian:
    """Mean m (d,) and a factor R (d, k) of the covariance R Rᵀ of a set of features."""

    mean: np.ndarray
    factor: np.ndarray


def gaussian(features: np.ndarray) -> Gaussian:
    """Fit a Gaussian to features (n, d). Raises EvaluationError if there are fewer than 2, or they are not finite."""
    features = checked(features)
    count, width = features.shape
    mean = features.mean(axis=0)
    centred = (features - mean) / np.sqrt(count - 1)
    if count - 1 <= width:
        return Gaussian(mean, centred.T)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return Gaussian(mean, vectors * np.sqrt(values.clip(min=0.0)))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared Fréchet distance d² between two Gaussians (what is customarily reported)."""
    shift = first.mean - second.mean
    root_trace = np.linalg.svd(first.factor.T @ second.factor, compute_uv=False).sum()
    spread = np.square(first.factor).sum() + np.square(second.factor).sum()
    return float(max(0.0, shift @ shift + spread - 2.0 * root_trace))


def frechet_statistic(features: np.ndarray, reference: Gaussian) -> Statistic:
    """The distance of resampled features (n, d) from a fixed reference, as a function of how often each is drawn."""
    features = checked(features)
    mean = features.mean(axis=0)
    centred = features - mean
    squares = np.square(centred).sum(axis=1)
    projected = centred @ reference.factor

    def statistic(counts: np.ndarray) -> float:
        total = counts.sum()
        drawn = counts > 0
        weights = counts[drawn] / total
        unbiased = total / (total - 1.0)
        shift_of_mean = weights @ centred[drawn]
        centre = weights @ projected[drawn]
        rows = (projected[drawn] - centre) * np.sqrt(weights * unbiased)[:, None]
        gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
        root_trace = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0.0)).sum()
        trace = unbiased * (weights @ squares[drawn] - shift_of_mean @ shift_of_mean)
        shift = mean + shift_of_mean - reference.mean
        return float(shift @ shift + trace + np.square(reference.factor).sum() - 2.0 * root_trace)

    return statistic


def checked(features: np.ndarray) -> np.ndarray:
    """Features as float64 (n, d). Raises EvaluationError."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.shape[0] < 2:
        raise EvaluationError(f"a distribution needs features (n, d) of at least 2 pictures, got {features.shape}")
    if not np.isfinite(features).all():
        raise EvaluationError("features hold NaN or infinity: the pictures are not finite")
    return features
