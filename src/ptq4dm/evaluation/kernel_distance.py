"""Kernel distance between two sets of features: the unbiased estimate of MMD² with a polynomial kernel.

Bińkowski et al., "Demystifying MMD GANs", ICLR 2018 (https://arxiv.org/abs/1801.01401), Eq. 4 and sec. 4::

    k(x, y) = (xᵀy / d + 1)³
    MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j)

It may be negative, and it does not depend on the number of pictures. On the Inception network it is called KID.
"""

import numpy as np

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.bootstrap import Statistic
from ptq4dm.evaluation.frechet import checked


def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """k(x, y) = (xᵀy / d + 1)³ for features (n, d) and (m, d) -> (n, m)."""
    return (first @ second.T / first.shape[1] + 1.0) ** 3


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased MMD² between features (n, d) and (m, d). Raises EvaluationError with fewer than 2 of either."""
    return kernel_statistic(first, second)(np.ones(len(first)))


def kernel_distance_blocks(
    first: np.ndarray, second: np.ndarray, block: int = 1000, blocks: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of MMD² over random blocks of pictures, as published tables give it.

    A block is drawn without replacement from each set, and is no larger than either.
    """
    first, second = checked(first), checked(second)
    if blocks < 1 or block < 2:
        raise EvaluationError(f"blocks = {blocks} of {block} pictures: at least 1 of at least 2")
    size = min(block, len(first), len(second))
    rng = np.random.default_rng(seed)
    values = [
        kernel_distance(
            first[rng.choice(len(first), size, replace=False)], second[rng.choice(len(second), size, replace=False)]
        )
        for _ in range(blocks)
    ]
    return float(np.mean(values)), float(np.std(values))


def kernel_statistic(features: np.ndarray, reference: np.ndarray) -> Statistic:
    """MMD² of resampled features (n, d) from a fixed reference (m, d), as a function of how often each is drawn.

    A picture drawn twice is not compared with itself: pairs of one picture are left out, so duplicates do not bias.
    """
    features, reference = checked(features), checked(reference)
    within = kernel(features, features)
    np.fill_diagonal(within, 0.0)
    between = kernel(features, reference).mean(axis=1)
    among = kernel(reference, reference)
    np.fill_diagonal(among, 0.0)
    m = len(reference)
    constant = among.sum() / (m * (m - 1))

    def statistic(counts: np.ndarray) -> float:
        total = counts.sum()
        pairs = total**2 - counts @ counts
        return float(counts @ within @ counts / pairs + constant - 2.0 * (counts @ between) / total)

    return statistic
