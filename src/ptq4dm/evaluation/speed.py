"""How fast several engines are beside each other, in one run, and how fast they could be.

A noisy machine slows everything for a while. So the contestants alternate (A B C A B C ...), and a ratio is taken
round by round: what disturbs a round disturbs both its sides. The median of these ratios has an exact,
distribution-free interval from order statistics (David and Nagaraja, "Order Statistics", 2003, sec. 7.1).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ptq4dm.errors import EvaluationError
from ptq4dm.progress import progress

Name = TypeVar("Name")


@dataclass(frozen=True)
class Spread:
    """A median with quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio(Spread):
    """A median with an interval, and how often such an interval encloses the true median: `confidence`."""

    confidence: float


def alternate(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    warm_up: int = 2,
    pause: float = 0.02,
    shown: bool = False,
) -> dict[str, list[float]]:
    """Time each contestant once a round, in turn; the order is reversed every second round.

    pause: seconds of rest before each, so that the idle threads of the engine before stop spinning.

    Returns seconds by name, one a round. Raises EvaluationError if there is nothing to time.
    """
    if not contestants or rounds < 1 or warm_up < 0:
        raise EvaluationError(
            f"{len(contestants)} contestants, {rounds} rounds, {warm_up} to warm up: at least 1, 1, 0"
        )
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with progress("timing", rounds + warm_up, shown) as advance:
        for index in range(-warm_up, rounds):
            names = list(contestants)[:: 1 if index % 2 == 0 else -1]
            for name in names:
                time.sleep(pause)
                started = time.perf_counter()
                contestants[name]()
                taken = time.perf_counter() - started
                if index >= 0:
                    times[name].append(taken)
            advance(1)
    return times


def spread(times: Sequence[float]) -> Spread:
    """Median and quartiles of some times."""
    low, median, high = np.quantile(np.asarray(times, dtype=np.float64), (0.25, 0.5, 0.75))
    return Spread(float(median), float(low), float(high))


def speedup(baseline: Sequence[float], contestant: Sequence[float], confidence: float = 0.95) -> Ratio:
    """How many times faster the contestant is: median of baseline / contestant round by round, with its interval.

    The interval has at least `confidence` where the rounds suffice (6 for 95 %); the result says what it really has.
    """
    if len(baseline) != len(contestant) or not baseline:
        raise EvaluationError(f"{len(baseline)} and {len(contestant)} rounds cannot be paired")
    ratios = np.sort(np.asarray(baseline, dtype=np.float64) / np.asarray(contestant, dtype=np.float64))
    low, high = median_ranks(len(ratios), confidence)
    return Ratio(float(np.median(ratios)), float(ratios[low]), float(ratios[high]), ranks_confidence(len(ratios), low))


def median_ranks(n: int, confidence: float) -> tuple[int, int]:
    """Ranks (from 0) of the order statistics that enclose the median with at least `confidence`; the extremes if n is
    too small for that: P(X_(k) < median < X_(n-1-k)) = 1 - 2 P(Binomial(n, 1/2) <= k)."""
    outside, rank = 0.0, -1
    for k in range((n + 1) // 2):
        outside += 2.0 * math.comb(n, k) / 2.0**n
        if outside > 1.0 - confidence:
            break
        rank = k
    rank = max(rank, 0)
    return rank, n - 1 - rank


def ranks_confidence(n: int, rank: int) -> float:
    """How often order statistics `rank` and n - 1 - rank (from 0) of n values enclose the median; 1 - 2^(1 - n) for the
    extremes."""
    return max(0.0, 1.0 - 2.0 * sum(math.comb(n, k) for k in range(rank + 1)) / 2.0**n)


def median_confidence(n: int, confidence: float = 0.95) -> float:
    """What an interval of the median of n rounds really has where `confidence` was asked for."""
    return ranks_confidence(n, median_ranks(n, confidence)[0])


def fastest(times: Mapping[Name, Sequence[float]]) -> Name:
    """The name with the smallest median."""
    return min(times, key=lambda name: float(np.median(times[name])))


def predicted_limit(share: float, ratio: float) -> float:
    """The most that INT8 can gain if all time is spent in multiply-adds (Amdahl, 1967): 1 / (1 - s + s / r).

    share s: of the multiply-adds that run in INT8. ratio r: INT8 over FP32 multiply-adds a cycle.
    """
    if not 0.0 <= share <= 1.0 or ratio <= 0.0:
        raise EvaluationError(f"share = {share} and ratio = {ratio}: accepted are 0 to 1, and more than 0")
    return 1.0 / (1.0 - share + share / ratio)
