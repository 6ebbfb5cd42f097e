"""Fréchet distance against the closed form with scipy's matrix square root, and against torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.frechet import frechet_distance, frechet_statistic, gaussian


def by_the_formula(first: np.ndarray, second: np.ndarray) -> float:
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(0) - second.mean(0)
    return float(shift @ shift + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real))


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 8), (200, 30, 40), (30, 200, 40), (20, 25, 60)])
def test_it_is_the_formula_with_more_and_fewer_pictures_than_features(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n + d)
    first = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    second = rng.standard_normal((m, d)) * 1.3 + 0.2
    wanted = by_the_formula(first, second)
    assert frechet_distance(gaussian(first), gaussian(second)) == pytest.approx(wanted, rel=1e-5)
    assert frechet_distance(gaussian(second), gaussian(first)) == pytest.approx(wanted, rel=1e-5)
    assert frechet_statistic(first, gaussian(second))(np.ones(n)) == pytest.approx(wanted, rel=1e-5)


def test_it_agrees_with_torchmetrics() -> None:
    class Pixels(nn.Module):
        num_features = 12

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures.flatten(1).double()

    generator = torch.Generator().manual_seed(0)
    real = torch.rand(60, 3, 2, 2, generator=generator)
    fake = torch.rand(50, 3, 2, 2, generator=generator) ** 2
    metric = FrechetInceptionDistance(feature=Pixels(), normalize=True, input_img_size=(3, 2, 2)).set_dtype(
        torch.float64
    )
    metric.update(real, real=True)
    metric.update(fake, real=False)
    mine = frechet_distance(gaussian(real.flatten(1).numpy()), gaussian(fake.flatten(1).numpy()))
    assert mine == pytest.approx(float(metric.compute()), rel=1e-4)


def test_diagonal_gaussians_give_the_sum_over_dimensions() -> None:
    signs = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    bessel = np.sqrt(4 / 3)
    first, second = signs * [1.0, 2.0], signs * [3.0, 0.5] + [0.5, -1.0]
    wanted = 0.5**2 + 1.0**2 + bessel**2 * ((1 - 3) ** 2 + (2 - 0.5) ** 2)
    assert frechet_distance(gaussian(first), gaussian(second)) == pytest.approx(wanted)


def test_a_set_is_at_no_distance_from_itself() -> None:
    features = np.random.default_rng(0).standard_normal((40, 60))
    assert frechet_distance(gaussian(features), gaussian(features)) == pytest.approx(0.0, abs=1e-8)


def test_the_statistic_of_counts_is_the_distance_of_the_repeated_rows() -> None:
    rng = np.random.default_rng(3)
    features, reference = rng.standard_normal((30, 10)) + 5.0, gaussian(rng.standard_normal((12, 10)))
    counts = rng.multinomial(30, np.full(30, 1 / 30)).astype(float)
    repeated = np.repeat(features, counts.astype(int), axis=0)
    wanted = frechet_distance(gaussian(repeated), reference)
    assert frechet_statistic(features, reference)(counts) == pytest.approx(wanted, rel=1e-6)


def test_bad_features_are_refused_in_words() -> None:
    with pytest.raises(EvaluationError, match="at least 2 pictures, got \\(1, 4\\)"):
        gaussian(np.zeros((1, 4)))
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        gaussian(np.full((5, 4), np.nan))
