"""The inception-style score against the formula written out with scipy's entropies."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.class_score import class_score, class_score_splits, class_score_statistic


def by_the_formula(logits: np.ndarray) -> float:
    p = softmax(logits, axis=1)
    return float(np.exp(np.mean([entropy(row, p.mean(0)) for row in p])))


def test_it_is_the_formula() -> None:
    logits = np.random.default_rng(0).standard_normal((50, 7)) * 3
    assert class_score(logits) == pytest.approx(by_the_formula(logits))
    mean, deviation = class_score_splits(logits, 5)
    parts = [by_the_formula(part) for part in np.array_split(logits, 5)]
    assert (mean, deviation) == pytest.approx((np.mean(parts), np.std(parts)))


def test_its_extremes_are_one_and_the_number_of_classes() -> None:
    assert class_score(np.zeros((20, 6))) == pytest.approx(1.0)
    assert class_score(np.eye(6) * 1e4) == pytest.approx(6.0)


def test_counts_stand_for_repeated_pictures() -> None:
    rng = np.random.default_rng(2)
    logits, counts = rng.standard_normal((12, 5)), rng.integers(0, 4, 12)
    repeated = np.repeat(logits, counts, axis=0)
    assert class_score_statistic(logits)(counts.astype(float)) == pytest.approx(by_the_formula(repeated))


def test_bad_logits_are_refused() -> None:
    with pytest.raises(EvaluationError, match="at least 1 picture"):
        class_score_statistic(np.zeros((0, 5)))
    with pytest.raises(EvaluationError, match="splits = 9 of 4"):
        class_score_splits(np.zeros((4, 3)), 9)
