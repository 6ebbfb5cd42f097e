"""p(t) of laws against what the laws draw."""

import numpy as np
import pytest
import torch

from ptq4dm.calibration.sources import nearest_visits
from ptq4dm.calibration.time_shares import time_shares, visit_shares
from ptq4dm.calibration.timesteps import resolve_law
from ptq4dm.errors import RecipeError

T = 100
DRAWS = 200_000


@pytest.mark.parametrize(
    ("law", "options"),
    [
        ("uniform", {}),
        ("ndtc", {}),
        ("ndtc", {"overflow": "resample"}),
        ("ndtc", {"location": 0.1, "scale": 0.3, "shape": 4.0}),
        ("single", {"t": 0.5}),
        ("explicit", {"timesteps": [3, 3, 70, 99]}),
    ],
)
def test_shares_are_the_frequencies_of_what_a_law_draws(law: str, options: dict[str, object]) -> None:
    drawn = resolve_law(law, options)(DRAWS, T, np.random.default_rng(5))
    frequencies = np.bincount(drawn, minlength=T) / DRAWS
    shares = time_shares(law, options, T).numpy()
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    tolerance = 5 * np.sqrt(np.maximum(shares * (1 - shares), 1e-9) / DRAWS)
    assert (np.abs(shares - frequencies) <= tolerance).all()


def test_a_law_of_ones_own_is_drawn() -> None:
    def ends(samples: int, total: int, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(samples) < 0.25, 0, total - 1)

    shares = time_shares(ends, None, T)
    assert shares[0] == pytest.approx(0.25, abs=0.01)
    assert float(shares[1:-1].sum()) == 0


def test_unknown_options_are_refused() -> None:
    with pytest.raises(RecipeError, match="unknown option 'width'"):
        time_shares("ndtc", {"width": 0.1}, T)


def test_every_time_step_gives_its_share_to_the_nearest_visit() -> None:
    visited = torch.tensor([90, 60, 30, 0])
    shares = time_shares("ndtc", {}, T)
    wanted = torch.zeros(4, dtype=torch.float64)
    for t in range(T):
        wanted[int(nearest_visits(visited, torch.tensor([t])))] += shares[t]
    assert torch.allclose(visit_shares(shares, visited), wanted, atol=1e-12)
    assert visit_shares(shares, visited)[3] > shares[0]  # 0 is nearest to more than itself
