"""Paired bootstrap: how sure a difference between two models is, when both drew the same seeds.

Both models are resampled with the *same* counts, so that what a seed does to both cancels (Efron and Tibshirani,
"An Introduction to the Bootstrap", 1993, ch. 6 and 13). The interval is the normal one, ::

    estimate ± z · se,     se = standard deviation of the replicates,

and not the percentile one: a resample holds every picture about 1.6 times where it holds it at all, these duplicates
shift distances between distributions, and percentiles inherit the shift while the standard error does not.
What it covers for a distance between distributions is the difference *expected at this n* (such a distance depends on
n); the tests show that it does so on synthetic Gaussians, with more and with fewer pictures than features.
The smallest detectable difference is (z_confidence + z_power) · se, at a power of 80 %.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from ptq4dm.errors import EvaluationError

Statistic = Callable[[np.ndarray], float]
"""A number from the counts (n,) with which each of n pictures is drawn; all ones is the sample itself."""

REPLICATES: Final = 400
POWER: Final = 0.8
AT_ONCE: Final = 1 << 20
"""Counts that are drawn at once: 8 MB."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. n: pictures. detectable: the smallest true difference found with 80 % power."""

    value: float
    low: float
    high: float
    n: int
    standard_error: float
    detectable: float
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return dict(vars(self))

    @property
    def holds_zero(self) -> bool:
        """Whether the interval holds 0, that is, whether no difference was found."""
        return self.low <= 0.0 <= self.high


def paired_difference(
    first: Statistic,
    second: Statistic,
    n: int,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`second` minus `first`, each of n pictures of the same seeds, resampled together.

    Raises EvaluationError with fewer than 2 pictures.
    """
    return bootstrap(lambda counts: second(counts) - first(counts), n, replicates, confidence, seed)


def bootstrap(
    statistic: Statistic, n: int, replicates: int = REPLICATES, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """The statistic of a sample of n with its normal bootstrap interval.

    Right for means, and for differences between models; not for one absolute distance between distributions.
    """
    check(n, replicates, confidence)
    drawn = [statistic(counts) for some in resamples(n, replicates, seed) for counts in some]
    return estimate(float(statistic(np.ones(n))), drawn, n, confidence)


def mean_interval(
    values: np.ndarray, replicates: int = REPLICATES, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """`bootstrap` of the mean of values (n,), of many resamples at once."""
    values = np.asarray(values, dtype=np.float64)
    check(len(values), replicates, confidence)
    drawn = np.concatenate([some @ values for some in resamples(len(values), replicates, seed)]) / len(values)
    return estimate(float(values.mean()), drawn, len(values), confidence)


def mean_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """The mean of `second` (n,) less that of `first` (n,), of pictures of the same seeds, resampled together.

    Raises EvaluationError unless there are as many of both, and 2 at least.
    """
    first, second = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if first.shape != second.shape:
        raise EvaluationError(f"values of shapes {first.shape} and {second.shape} are not of the same pictures")
    return mean_interval(second - first)


def estimate(value: float, drawn: Sequence[float] | np.ndarray, n: int, confidence: float) -> Estimate:
    """The value with the interval that its resampled ones give."""
    error = float(np.std(drawn, ddof=1))
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    detectable = (z + NormalDist().inv_cdf(POWER)) * error
    return Estimate(value, value - z * error, value + z * error, n, error, detectable, confidence)


def check(n: int, replicates: int, confidence: float) -> None:
    """Raise EvaluationError where no interval can be had."""
    if n < 2:
        raise EvaluationError(f"an interval needs at least 2 pictures, got {n}")
    if replicates < 2 or not 0.0 < confidence < 1.0:
        raise EvaluationError(f"replicates = {replicates} and confidence = {confidence}: at least 2, and in (0, 1)")


def resamples(n: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n pictures is drawn in n draws, (some, n) float64 until there are `replicates`. A draw of one
    picture alone, which has no variance and no pairs, is drawn again; beyond a handful of pictures that never
    happens."""
    rng, shares, rows = np.random.default_rng(seed), np.full(n, 1.0 / n), max(1, AT_ONCE // n)
    for start in range(0, replicates, rows):
        counts = rng.multinomial(n, shares, size=min(rows, replicates - start))
        while (alone := np.count_nonzero(counts, axis=1) == 1).any():
            counts[alone] = rng.multinomial(n, shares, size=int(alone.sum()))
        yield counts.astype(np.float64)
