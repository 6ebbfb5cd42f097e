"""The experiment `auto`: gains of layers, the grid of laws, ranges of layers of their own, and its sentence."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptq4dm.calibration.time_shares import time_shares, visit_shares
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.ranges.histograms import Histogram
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import RangeRecipe
from ptq4dm.studies.auto import AUTO, PUBLISHED, UNIFORM, Effects, auto
from ptq4dm.studies.auto_words import auto_sentence
from ptq4dm.studies.law_grid import best_for_layers, make_grid, nearest
from ptq4dm.studies.layer_gains import layer_gains
from ptq4dm.studies.study import Study

VISITED = torch.tensor([900, 600, 300, 0])


class Small(nn.Module):
    """Two layers that are given one and the same tensor, and one after them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 1)
        self.last = nn.Linear(4, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
                )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(torch.tanh(self.left(x)) * (1 + t / 500) + self.right(x))


def test_gains_are_the_squared_norms_of_the_derivatives_by_each_layers_own_input() -> None:
    network, t = Small().requires_grad_(False), torch.tensor([500.0])
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    smoothing = {"right": torch.tensor([1.0, 3.0]), "last": torch.tensor([1.0, 2.0, 1.0, 0.5])}
    found = layer_gains(network, ["left", "right", "last"], t, x.expand(4000, -1, -1, -1)[None], smoothing, 0)

    def answer_by(name: str, own: Tensor) -> Tensor:
        left, right = (network.left(own if name == "left" else x), network.right(own if name == "right" else x))
        hidden = torch.tanh(left) * 2 + right
        return network.last(own if name == "last" else hidden)

    hidden = torch.tanh(network.left(x)) * 2 + network.right(x)
    for name, own, factors in (
        ("left", x, torch.ones(1)),
        ("right", x, smoothing["right"].view(1, -1, 1, 1)),
        ("last", hidden, smoothing["last"]),
    ):
        jacobian = torch.autograd.functional.jacobian(lambda given, name=name: answer_by(name, given), own)
        wanted = float((jacobian * factors).square().sum())
        assert float(found[name][0]) == pytest.approx(wanted, rel=0.05)


def test_the_grid_has_the_shares_that_one_law_at_a_time_has() -> None:
    grid = make_grid(2, VISITED // 10, 100)
    assert len(grid.options) == 8
    for options, shares in zip(grid.options, grid.shares, strict=True):
        wanted = visit_shares(time_shares("ndtc", options, 100), VISITED // 10)
        assert shares.numpy() == pytest.approx(wanted.numpy(), abs=1e-9)
    assert nearest(grid, grid.shares[5]) == grid.options[5]
    assert nearest(grid, torch.tensor([0.0, 0.0, 0.0, 1.0]))["location"] == 0


def test_each_layer_takes_the_law_that_loses_least_where_it_matters() -> None:
    edges, generator = (0.0, 500.0, 1000.0), torch.Generator().manual_seed(0)
    wide, narrow = (scale * torch.randn(1, 1, 20000, generator=generator) for scale in (8.0, 1.0))
    histogram = Histogram(edges, 1)
    histogram.add(torch.cat([narrow, wide]), torch.tensor([0, 1]))
    statistics = {"early": histogram.finish(), "late": histogram.finish()}
    laws = torch.tensor([[0.5, 0.5], [0.99, 0.01], [0.01, 0.99]])
    weights = {"early": torch.tensor([1.0, 0.0]), "late": torch.tensor([0.0, 1.0])}
    assert best_for_layers(statistics, laws, weights, RangeRecipe()) == {"early": 1, "late": 2}


def test_shares_of_layers_are_what_errors_in_them_do_to_the_picture(study: Study) -> None:
    effects = Effects(study)
    squares = torch.tensor(effects.weights.weights, dtype=torch.float64).square()
    assert effects.weights.timesteps == tuple(study.pool.timesteps.tolist())
    name = next(iter(study.sweep.statistics))
    gains = layer_gains(
        study.pipeline.denoiser, [name], study.pool.timesteps, study.pool.x_t, study.sweep.smoothing.factors, 7
    )
    wanted = gains[name] * squares
    assert effects.layer_shares[name].numpy() == pytest.approx((wanted / wanted.sum()).numpy(), rel=0.5)
    assert float(effects.layer_shares[name].sum()) == pytest.approx(1)


def test_a_layers_own_shares_choose_its_own_range(study: Study) -> None:
    effects, sweep = Effects(study), study.sweep
    even, first = torch.full((4,), 0.25, dtype=torch.float64), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    shares = {name: first if index % 2 else even for index, name in enumerate(sweep.statistics)}
    network = effects.layerwise(shares)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, QuantizedLayer)}
    for chosen in (even, first):
        names = [name for name in sweep.statistics if name in layers and shares[name] is chosen][:2]
        assert len(names) == 2
        wanted = choose_ranges({name: sweep.under(chosen)[name] for name in names}, study.recipe.ranges).ranges
        for name in names:
            assert float(layers[name].input_scale) == pytest.approx(wanted[name].scale, rel=1e-6)


def test_nothing_is_measured_to_tell_the_cases(study: Study) -> None:
    cases = auto(study)
    variants = [case.variant for case in cases]
    assert {AUTO, PUBLISHED, UNIFORM} < set(variants) and len(set(variants)) == len(variants)
    published = next(case for case in cases if case.variant == PUBLISHED)
    assert published.baseline is not None and published.identity == published.baseline.identity


def row(variant: str, psnr: list[float]) -> dict[str, Any]:
    return {"variant": variant, "n": len(psnr), "per_picture": {"picture_psnr": psnr, "relative_l2": [0.1] * len(psnr)}}


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(1.0, "is better than both"), (0.0, "is not better than both"), (-1.0, "is worse than one of them")],
)
def test_the_pictures_decide_and_the_sentence_says_so(gain: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(30, 3, 20)
    noisy = [base + rng.normal(0, 0.2, 20) for _ in range(3)]
    weights = {"timesteps": [900, 0], "weights": [0.5, 2.0]}
    rows = [
        row(AUTO, (noisy[0] + gain).tolist()),
        row(PUBLISHED, noisy[1].tolist()),
        row(UNIFORM, noisy[2].tolist()),
        {"variant": "facts", "facts": {"weights": weights}},
    ]
    text = auto_sentence(rows)
    assert "most at t = 0, by 2 per unit, and least at t = 900, by 0.5" in text
    assert verdict in text and "over 20 pictures" in text
    assert f"{float(np.mean(noisy[0] + gain - noisy[1])):+.2f}".replace("-", "−") + " dB [" in text
    assert "was not measured" in auto_sentence(rows[1:])
