"""The kernel distance against a brute-force U-statistic."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.kernel_distance import kernel_distance, kernel_distance_blocks, kernel_statistic


def k(x: np.ndarray, y: np.ndarray) -> float:
    return float((np.dot(x, y) / len(x) + 1) ** 3)


def brute_force(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    n, m = len(first), len(second)
    pairs = [(i, j) for i, j in itertools.product(range(n), range(n)) if i != j]
    total = sum(weights[i] * weights[j] for i, j in pairs)
    within = sum(weights[i] * weights[j] * k(first[i], first[j]) for i, j in pairs) / total
    among = np.mean([k(second[i], second[j]) for i in range(m) for j in range(m) if i != j])
    between = sum(weights[i] * k(first[i], second[j]) for i in range(n) for j in range(m)) / (weights.sum() * m)
    return within + among - 2 * between


@settings(max_examples=20)
@given(n=st.integers(2, 9), m=st.integers(2, 9), d=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_it_is_the_u_statistic(n: int, m: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((n, d)), rng.standard_normal((m, d)) + 0.5
    wanted = brute_force(first, second, np.ones(n))
    assert kernel_distance(first, second) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    weights = rng.integers(0, 3, n).astype(float) + 1.0
    wanted = brute_force(first, second, weights)
    assert kernel_statistic(first, second)(weights) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_it_is_unbiased_where_both_sets_are_of_one_law() -> None:
    rng = np.random.default_rng(0)
    values = [kernel_distance(rng.standard_normal((8, 3)), rng.standard_normal((8, 3))) for _ in range(2000)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert min(values) < 0


def test_one_block_of_everything_is_the_whole() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((20, 4)), rng.standard_normal((20, 4)) + 1
    mean, deviation = kernel_distance_blocks(first, second, block=1000, blocks=3)
    assert mean == pytest.approx(kernel_distance(first, second))
    assert deviation == pytest.approx(0.0, abs=1e-12)


def test_no_blocks_are_refused() -> None:
    with pytest.raises(EvaluationError, match="blocks = 0"):
        kernel_distance_blocks(np.zeros((3, 2)), np.zeros((3, 2)), blocks=0)
