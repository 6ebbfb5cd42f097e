from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ptq4dm.calibration.timesteps import LAWS, draw_timesteps, explicit, ndtc, resolve_law, single, uniform
from ptq4dm.errors import RecipeError

T, MANY = 1000, 40_000


def law_of(location, scale, shape):
    return stats.skewnorm(shape, loc=location * T, scale=scale * T)


def mass_of(law, low, high):
    """Probability that round(x) = t for each t in [low, high]."""
    edges = law.cdf(np.arange(low, high + 2) - 0.5)
    return np.diff(edges)


@pytest.mark.parametrize(("location", "scale", "shape"), [(0.4, 0.4, 0.0), (0.3, 0.2, 4.0), (0.5, 0.3, -2.5)])
@pytest.mark.parametrize("overflow", ["clip", "resample"])
def test_ndtc_is_scipys_skew_normal(location, scale, shape, overflow):
    """Kolmogorov-Smirnov against the law of the rounded value, clipped or truncated (p > 0.001)."""
    drawn = ndtc(location, scale, shape, overflow)(MANY, T, np.random.default_rng(7))
    law = law_of(location, scale, shape)
    mass = mass_of(law, 0, T - 1)
    if overflow == "clip":
        mass[0] += law.cdf(-0.5)
        mass[-1] += law.sf(T - 0.5)
    else:
        mass /= mass.sum()
    counts = np.bincount(drawn, minlength=T)
    distance = np.abs(np.cumsum(counts) / MANY - np.cumsum(mass)).max()
    assert distance < stats.kstwo.ppf(0.999, MANY)


@pytest.mark.parametrize("shape", [0.0, 3.0])
def test_a_time_step_is_the_nearest_whole_number(shape):
    """On ten time-steps, rounding down instead is half a step off, which chi-square sees."""
    law = stats.skewnorm(shape, loc=3, scale=2)
    drawn = ndtc(0.3, 0.2, shape, "resample")(MANY, 10, np.random.default_rng(5))
    mass = mass_of(law, 0, 9)
    assert stats.chisquare(np.bincount(drawn, minlength=10), MANY * mass / mass.sum()).pvalue > 0.001


def test_clipping_puts_the_masses_of_the_paper_at_the_ends():
    drawn = ndtc()(MANY, T, np.random.default_rng(1))
    assert np.mean(drawn == 0) == pytest.approx(0.16, abs=0.01)
    assert np.mean(drawn == T - 1) == pytest.approx(0.07, abs=0.005)
    again = ndtc(overflow="resample")(MANY, T, np.random.default_rng(1))
    assert np.mean(again == 0) < 0.002 and np.mean(again == T - 1) < 0.002


def test_negative_shape_leans_to_clean_pictures():
    low, high = (ndtc(0.4, 0.2, shape)(MANY, T, np.random.default_rng(1)).mean() for shape in (-4.0, 4.0))
    assert low == pytest.approx(law_of(0.4, 0.2, -4).mean(), rel=0.02)
    assert high == pytest.approx(law_of(0.4, 0.2, 4).mean(), rel=0.02)


def test_uniform_is_uniform():
    counts = np.bincount(uniform()(MANY, 50, np.random.default_rng(3)), minlength=50)
    assert len(counts) == 50 and stats.chisquare(counts).pvalue > 0.001


@given(
    location=st.floats(0, 1),
    scale=st.floats(min_value=0, exclude_min=True, max_value=np.finfo(float).max) | st.integers(1, 10**300),
    shape=st.floats(allow_nan=False, allow_infinity=False),
)
def test_ndtc_of_any_size_draws_what_exact_arithmetic_draws(location, scale, shape):
    """However large the numbers, every sample lies where a computation without overflow puts it: at the same end."""
    drawn = ndtc(location, scale, shape)(50, T, np.random.default_rng(2))
    delta = float(shape / np.hypot(1.0, shape))
    u_0, u_1 = np.random.default_rng(2).standard_normal((2, 50))
    z = delta * np.abs(u_0) + np.sqrt(1 - delta**2) * u_1
    wanted = [round((Fraction(location) + Fraction(scale) * Fraction(value)) * T) for value in z]
    assert np.abs(drawn - np.array([min(max(value, 0), T - 1) for value in wanted])).max() <= 1


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), "1", True])
def test_ndtc_refuses_what_is_no_finite_number(value):
    for name in ("location", "scale", "shape"):
        with pytest.raises(RecipeError, match=f"ndtc: {name} = .* should be a finite number"):
            ndtc(**{name: value})


def test_ndtc_too_wide_to_resample_is_refused():
    with pytest.raises(RecipeError, match=r"almost no time-step inside \[0, 999\]"):
        ndtc(scale=1e30, overflow="resample")(8, T, np.random.default_rng(0))


laws = st.one_of(
    st.builds(ndtc, st.floats(0, 1), st.floats(0.01, 2), st.floats(-20, 20), st.sampled_from(["clip"])),
    st.builds(ndtc, st.floats(0.1, 0.9), st.floats(0.05, 2), st.floats(-3, 3), st.just("resample")),
    st.builds(uniform),
    st.builds(single, st.floats(0, 1)),
)


@settings(max_examples=60)
@given(laws, st.integers(1, 200), st.integers(10, 4000), st.integers(0, 2**32))
def test_every_law_gives_whole_time_steps_in_range_and_the_same_again(law, samples, num_train_timesteps, seed):
    first, second = (draw_timesteps(law, samples, num_train_timesteps, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == (samples,) and first.dtype == np.int64
    assert first.min() >= 0 and first.max() < num_train_timesteps
    assert np.array_equal(first, second)


def test_another_seed_gives_other_time_steps():
    drawn = [ndtc()(50, T, np.random.default_rng(seed)) for seed in (0, 1)]
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize(("t", "expected"), [(0, 0), (1, 1), (999, 999), (0.0, 0), (0.5, 500), (1.0, 999)])
def test_single(t, expected):
    assert draw_timesteps(single(t), 3, T, np.random.default_rng(0)).tolist() == [expected] * 3


def test_explicit_repeats_in_order():
    drawn = draw_timesteps(explicit([5, 0, 999]), 7, T, np.random.default_rng(0))
    assert drawn.tolist() == [5, 0, 999, 5, 0, 999, 5]


def test_a_law_of_your_own():
    law = resolve_law(lambda samples, num_train_timesteps, rng: np.arange(samples) % num_train_timesteps)
    assert draw_timesteps(law, 4, 3, np.random.default_rng(0)).tolist() == [0, 1, 2, 0]


def test_options_reach_the_law():
    for name, options in (
        ("ndtc", {"location": 0.1, "scale": 0.05}),
        ("single", {"t": 7}),
        ("explicit", {"timesteps": [3]}),
        ("weighted", {"timesteps": [3, 9], "weights": [1, 2]}),
    ):
        by_name = resolve_law(name, options)(20, T, np.random.default_rng(0))
        directly = LAWS[name](**options)(20, T, np.random.default_rng(0))
        assert np.array_equal(by_name, directly)
    assert resolve_law("ndtc", {"location": 0.1, "scale": 0.05})(1000, T, np.random.default_rng(0)).mean() < 150


@pytest.mark.parametrize(
    ("law", "options", "message"),
    [
        ("nddc", {}, "unknown time-step law 'nddc': accepted are ndtc, uniform, single, explicit"),
        (3, {}, "time-steps 3: accepted are ndtc"),
        ("auto", {}, "'auto' are measured by quantize, on an unconditional model.*accepted are ndtc, uniform"),
        ("weighted", {}, r"timesteps = \(\) should be a list"),
        ("weighted", {"timesteps": [1, 2], "weights": [1.0]}, r"weights = \[1.0\] should be 2 numbers"),
        ("weighted", {"timesteps": [1, 2], "weights": [1.0, -1.0]}, "at least one of them above 0 and none below"),
        ("weighted", {"timesteps": [1, 2], "weights": [0.0, 0.0]}, "at least one of them above 0"),
        ("ndtc", {"mean": 0.4}, "unknown option 'mean' of the time-step law ndtc: accepted are location, scale"),
        ("uniform", {"low": 1}, "unknown option 'low' of the time-step law uniform: accepted are none"),
        ("ndtc", {"location": 1.5}, "location = 1.5 should be a fraction of T"),
        ("ndtc", {"location": "0.4"}, "location = '0.4' should be a finite number"),
        ("ndtc", {"scale": 0}, "scale = 0 should be a fraction of T above 0"),
        ("ndtc", {"shape": float("nan")}, "shape = nan should be a finite number"),
        ("ndtc", {"overflow": "wrap"}, "overflow = 'wrap'; accepted are clip, resample"),
        ("single", {"t": 1.5}, "t = 1.5 should be a fraction"),
        ("single", {"t": True}, "t = True should be a whole time-step"),
        ("explicit", {}, r"timesteps = \(\) should be a list"),
        ("explicit", {"timesteps": [10**20]}, "time-step 10{20} is out of range: accepted are 0 to T - 1"),
        ("single", {"t": -(10**20)}, "time-step -10{20} is out of range"),
        ("weighted", {"timesteps": [1], "weights": ["a"]}, r"weights = \['a'\] should be 1 numbers"),
        ("weighted", {"timesteps": [1, 2], "weights": [[1, 2], 3]}, r"weights = \[\[1, 2\], 3\] should be 2 numbers"),
        ("explicit", {"timesteps": [1, 2.5]}, "2.5 in timesteps should be a whole number"),
        (lambda samples, num_train_timesteps, rng: None, {"scale": 1}, "put them into the function"),
    ],
)
def test_bad_options(law, options, message):
    with pytest.raises(RecipeError, match=message):
        resolve_law(law, options)


@pytest.mark.parametrize(
    ("law", "samples", "message"),
    [
        (single(1000), 3, "time-step 1000 is out of range: accepted are 0 to 999"),
        (single(-1), 3, "time-step -1 is out of range"),
        (explicit([0, 2000]), 3, "time-step 2000 is out of range"),
        (uniform(), 0, "samples = 0 should be at least 1"),
        (lambda samples, num_train_timesteps, rng: np.zeros(samples), 3, "gave float64 of shape"),
        (lambda samples, num_train_timesteps, rng: np.zeros(2, int), 3, "it should give 3 whole numbers"),
        (ndtc(1.0, 0.01, 1e9, "resample"), 20, "almost no time-step inside"),
    ],
)
def test_bad_drawings(law, samples, message):
    with pytest.raises(RecipeError, match=message):
        draw_timesteps(law, samples, T, np.random.default_rng(0))
