"""The intervals cover: on synthetic Gaussians, the difference is inside at least as often as promised."""

import numpy as np
import pytest
from scipy.stats import norm

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.bootstrap import (
    Statistic,
    bootstrap,
    mean_difference,
    mean_interval,
    paired_difference,
    resamples,
)
from ptq4dm.evaluation.frechet import frechet_statistic, gaussian
from ptq4dm.evaluation.kernel_distance import kernel_statistic

TRIALS = 120
LEAST = 0.89
"""Of intervals of 95 %: fewer than this among 120 would happen once in 400 runs if they covered."""


def mean_statistic(values: np.ndarray) -> Statistic:
    """The mean of per-picture values (n,)."""
    return lambda counts: float(counts @ values / counts.sum())


def coverage(make, n: int, d: int, scale: float) -> tuple[float, float]:
    """The share of intervals that hold the expected difference, and their mean width over the real spread's."""
    rng = np.random.default_rng(d)
    estimates = []
    for trial in range(TRIALS):
        x = rng.standard_normal((n, d)) * np.linspace(0.5, 1.5, d) + 0.1
        y = scale * x + 0.1 * rng.standard_normal((n, d))
        estimates.append(paired_difference(make(x), make(y), n, replicates=60, seed=trial))
    centre = np.mean([estimate.value for estimate in estimates])
    spread = np.std([estimate.value for estimate in estimates], ddof=1)
    inside = np.mean([estimate.low <= centre <= estimate.high for estimate in estimates])
    return float(inside), float(np.mean([estimate.standard_error for estimate in estimates]) / spread)


@pytest.mark.parametrize(("n", "d", "m"), [(80, 6, 100), (40, 48, 30)])
@pytest.mark.parametrize("scale", [1.0, 1.05])
def test_frechet_differences_are_covered(n: int, d: int, m: int, scale: float) -> None:
    reference = gaussian(np.random.default_rng(99).standard_normal((m, d)))
    inside, width = coverage(lambda features: frechet_statistic(features, reference), n, d, scale)
    assert inside >= LEAST
    assert 0.8 < width < 1.6


def test_kernel_differences_are_covered() -> None:
    reference = np.random.default_rng(98).standard_normal((60, 6))
    inside, width = coverage(lambda features: kernel_statistic(features, reference), 60, 6, 1.05)
    assert inside >= LEAST
    assert 0.75 < width < 1.6


def test_means_have_the_standard_error_of_the_textbook() -> None:
    values = np.random.default_rng(0).standard_normal(400) + 3.0
    estimate = bootstrap(mean_statistic(values), 400, replicates=2000)
    error = values.std() / np.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.standard_error == pytest.approx(error, rel=0.08)
    assert estimate.high - estimate.value == pytest.approx(norm.ppf(0.975) * estimate.standard_error)
    assert estimate.detectable == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * estimate.standard_error)


def test_pairing_removes_what_a_seed_does_to_both() -> None:
    rng = np.random.default_rng(1)
    shared, noise = rng.standard_normal(300) * 10, rng.standard_normal(300) * 0.1
    paired = paired_difference(mean_statistic(shared), mean_statistic(shared + noise + 1.0), 300)
    assert paired.value == pytest.approx(1.0, abs=0.05)
    assert paired.standard_error < 0.02
    assert not paired.holds_zero


def test_both_models_are_resampled_with_the_same_counts() -> None:
    seen: list[np.ndarray] = []

    def statistic() -> Statistic:
        def remember(counts: np.ndarray) -> float:
            seen.append(counts)
            return float(counts[0])

        return remember

    estimate = paired_difference(statistic(), statistic(), 7, replicates=5)
    assert estimate.standard_error == 0.0
    assert estimate.holds_zero
    assert len(seen) == 12
    for one, other in zip(seen[::2], seen[1::2], strict=True):
        assert one.sum() == 7
        np.testing.assert_array_equal(one, other)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(EvaluationError, match="at least 2 pictures, got 1"):
        bootstrap(mean_statistic(np.ones(1)), 1)
    with pytest.raises(EvaluationError, match=r"confidence = 1\.5"):
        bootstrap(mean_statistic(np.ones(4)), 4, confidence=1.5)
    with pytest.raises(EvaluationError, match="at least 2 pictures, got 1"):
        mean_interval(np.ones(1))
    with pytest.raises(EvaluationError, match=r"shapes \(1,\) and \(4,\)"):
        mean_difference(np.ones(1), np.ones(4))


def test_a_resample_holds_at_least_two_pictures() -> None:
    (drawn,) = resamples(2, 50, 0)
    assert drawn.tolist() == [[1.0, 1.0]] * 50


def test_resamples_are_drawn_as_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptq4dm.evaluation.bootstrap.AT_ONCE", 30)
    rng = np.random.default_rng(3)
    drawn = list(resamples(9, 20, 3))
    assert [len(some) for some in drawn] == [3] * 6 + [2]
    for counts in np.concatenate(drawn):
        np.testing.assert_array_equal(counts, rng.multinomial(9, np.full(9, 1 / 9)))


def test_means_of_all_resamples_at_once_are_those_of_one_by_one() -> None:
    first, second = np.random.default_rng(1).normal(size=(2, 40))
    for found, wanted in (
        (mean_interval(first), bootstrap(mean_statistic(first), 40)),
        (mean_difference(first, second), paired_difference(mean_statistic(first), mean_statistic(second), 40)),
    ):
        assert found.to_dict() == pytest.approx(wanted.to_dict(), rel=1e-9)
