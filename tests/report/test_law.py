import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq4dm.calibration.timesteps import resolve_law
from ptq4dm.report.law import law_density

OPTIONS = st.fixed_dictionaries(
    {
        "location": st.floats(0, 1),
        "scale": st.floats(0.1, 1),
        "shape": st.floats(-5, 5),
        "overflow": st.sampled_from(["clip", "resample"]),
    }
)


@given(OPTIONS)
@settings(max_examples=40)
def test_density_and_clipped_mass_make_a_whole(options: dict) -> None:
    found = law_density({"law": "ndtc", "law_options": options, "num_train_timesteps": 1000}, points=1000)
    assert found is not None
    assert sum(found.density) + found.below + found.above == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("law", "options"),
    [
        ("ndtc", {}),
        ("ndtc", {"location": 0.3, "scale": 0.2, "shape": 4.0}),
        ("ndtc", {"location": 0.1, "scale": 0.3, "overflow": "resample"}),
        ("uniform", {}),
    ],
)
def test_density_is_the_one_that_is_drawn_from(law: str, options: dict) -> None:
    drawn = resolve_law(law, options)(200_000, 1000, np.random.default_rng(0))
    found = law_density({"law": law, "law_options": options, "num_train_timesteps": 1000}, points=1000)
    assert found is not None
    shares = np.bincount(drawn, minlength=1000) / len(drawn)
    expected = np.array(found.density)
    assert shares[1:-1].reshape(-1, 2).sum(1) == pytest.approx(expected[1:-1].reshape(-1, 2).sum(1), abs=6e-4)
    assert shares[0] == pytest.approx(expected[0] + found.below, abs=3e-3)
    assert shares[-1] == pytest.approx(expected[-1] + found.above, abs=3e-3)


def test_a_measured_law_is_spread_between_its_visits() -> None:
    measured = {"timesteps": [900.0, 400.0, 0.0], "weights": [1.0, 2.0, 1.0], "power": 2}
    found = law_density({"law": "auto", "num_train_timesteps": 1000, "step_weights": measured})
    assert found is not None
    for t, value in zip(found.t, found.density, strict=True):
        share, width = (4 / 6, 450) if 200 < t < 650 else (1 / 6, 200 if t < 200 else 350)
        assert value == pytest.approx(share / width)


def test_an_unknown_law_has_no_density() -> None:
    assert law_density({"law": "single", "num_train_timesteps": 1000}) is None
    assert law_density({}) is None
    assert law_density({"law": "auto", "num_train_timesteps": 1000}) is None
