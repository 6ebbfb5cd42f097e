"""The verdict follows the intervals, claim by claim."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from ptq4dm.studies.comparisons import CONTRADICTED, MISSING, SUPPORTED, UNDECIDED
from ptq4dm.studies.rows import compared, difference, verdict_of
from ptq4dm.studies.variants import AS_MANY, PRESET, UNIFORM_AS_MANY
from ptq4dm.studies.verdict import CLAIMS, verdicts

NOISE = [0.0, 1e-4, -1e-4, 5e-5, -5e-5, 2e-5]


def row(question: str, variant: str, error: float, spread: float = 1.0) -> dict[str, Any]:
    """A row whose pictures have about this error."""
    values = [error + spread * noise for noise in NOISE]
    return {
        "question": question,
        "variant": variant,
        "key": f"{question}/{variant}",
        "sampler": "ddim",
        "steps": 50,
        "n": len(values),
        "call": {"relative_l2": {"mean": error}},
        "picture": {},
        "per_picture": {"relative_l2": values},
    }


def verdict_on(start: str, rows: list[dict[str, Any]]) -> str:
    (found,) = (item for item in verdicts(rows) if item["claim"].startswith(start))
    return found["verdict"]


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ({"MSE": 0.01, "cosine": 0.02, "KL": 0.03, "L1": 0.04}, SUPPORTED),
        ({"MSE": 0.01, "cosine": 0.02, "KL": 0.005, "L1": 0.04}, CONTRADICTED),
        ({"MSE": 0.01, "cosine": 0.01, "KL": 0.03, "L1": 0.04}, UNDECIDED),
        ({"MSE": 0.01, "cosine": 0.02}, MISSING),
        ({}, MISSING),
    ],
)
def test_mse(errors: dict[str, float], wanted: str) -> None:
    rows = [row("metrics", name, error) for name, error in errors.items()]
    assert verdict_on("MSE is a better", rows) == wanted


@pytest.mark.parametrize(("uniform", "wanted"), [(0.02, SUPPORTED), (0.01, UNDECIDED), (0.005, CONTRADICTED)])
def test_ndtc_against_uniform(uniform: float, wanted: str) -> None:
    rows = [row("default", "default", 0.01), row("timesteps", "uniform", uniform)]
    assert verdict_on("NDTC", rows) == wanted


def test_a_difference_within_the_noise_decides_nothing() -> None:
    """Means that differ, pictures that do not agree on it."""
    first, second = row("default", "default", 0.01, spread=100), row("timesteps", "uniform", 0.0101, spread=-100)
    assert verdict_on("NDTC", [first, second]) == UNDECIDED


@pytest.mark.parametrize(("silu", "wanted"), [(0.03, SUPPORTED), (0.0001, CONTRADICTED), (0.01, UNDECIDED)])
def test_what_stays_in_float(silu: float, wanted: str) -> None:
    errors = {"convolutions": 0.01, "linear layers": 0.005, "attention products": 0.004}
    errors |= {"softmax": 0.02, "normalisation": 0.03, "SiLU": silu}
    rows = [row("operations", name, error) for name, error in errors.items()]
    assert verdict_on("SiLU, softmax", rows) == wanted


@pytest.mark.parametrize(("naive", "wanted"), [(0.02, SUPPORTED), (0.01, UNDECIDED), (0.001, CONTRADICTED)])
def test_any_sampler(naive: float, wanted: str) -> None:
    rows = []
    for sampler, error in (("ddim-50", 0.02), ("unipc-10", naive)):
        rows.append(row("samplers", f"{sampler}: default calibration", 0.01))
        rows.append(row("samplers", f"{sampler}: calibrated at t = 0 alone", error))
    assert verdict_on("The method is a plug-in", rows) == wanted


def test_every_claim_has_the_papers_words_and_is_not_measured_without_rows() -> None:
    found = verdicts([])
    assert len(found) == len(CLAIMS)
    assert all(item["verdict"] == MISSING and item["published"] and not item["comparisons"] for item in found)


@pytest.mark.parametrize(("noise", "wanted"), [(0.02, MISSING), (0.005, CONTRADICTED)])
def test_a_claim_about_sources_needs_all_of_them(noise: float, wanted: str) -> None:
    """Without pictures two of the four sources are not applicable: noise alone can contradict, never support."""
    rows = [row("sources", "denoising trajectory", 0.01), row("sources", "pure noise", noise)]
    rows += [
        {"question": "sources", "variant": name, "not_applicable": "none"}
        for name in ("raw pictures", "training-style noised pictures")
    ]
    assert verdict_on("Inputs from the float", rows) == wanted


def with_pictures(found: dict[str, Any], psnr: float) -> dict[str, Any]:
    values = [psnr + 1e3 * noise for noise in NOISE]
    return {**found, "per_picture": {**found["per_picture"], "picture_psnr": values}}


@pytest.mark.parametrize(("psnr", "wanted"), [(40.0, UNDECIDED), (30.0, SUPPORTED), (35.0, SUPPORTED)])
def test_pictures_that_say_the_opposite_leave_a_claim_open(psnr: float, wanted: str) -> None:
    rows = [with_pictures(row("default", "default", 0.01), 35.0)]
    rows.append(with_pictures(row("timesteps", "uniform", 0.02), psnr))
    assert verdict_on("NDTC", rows) == wanted


@pytest.mark.parametrize(("one", "wanted"), [(0.02, SUPPORTED), (0.01, UNDECIDED), (0.005, CONTRADICTED)])
def test_one_time_step_is_compared_with_as_many_samples(one: float, wanted: str) -> None:
    rows = [row("default", "default", 0.001), row("timesteps", AS_MANY, 0.01)]
    rows += [row("timesteps", "start: t = 0", one), row("timesteps", "end: t = 999", 0.03)]
    assert verdict_on("Calibrated at one", rows) == wanted


@pytest.mark.parametrize(
    ("small", "large", "wanted"),
    [(0.01, 0.02, SUPPORTED), (0.02, 0.01, CONTRADICTED), (0.01, 0.01, UNDECIDED)],
)
def test_small_time_steps(small: float, large: float, wanted: str) -> None:
    errors = {"0.1": small, "0.9": large, "0.3": small, "0.7": large}
    rows = [row("timesteps", f"normal, μ = {where} T, σ = 0.2 T", error) for where, error in errors.items()]
    assert verdict_on("Samples nearer", rows) == wanted


@pytest.mark.parametrize(("start", "wanted"), [(0.02, SUPPORTED), (0.01, UNDECIDED), (0.005, CONTRADICTED)])
def test_many_time_steps(start: float, wanted: str) -> None:
    rows = [row("timesteps", "uniform", 0.9), row("timesteps", UNIFORM_AS_MANY, 0.01)]
    rows.append(row("timesteps", "start: t = 0", start))
    assert verdict_on("Samples must still cover", rows) == wanted


@pytest.mark.parametrize(
    ("psnr", "wanted"), [(40.0, SUPPORTED), (20.0, CONTRADICTED), (30.0, UNDECIDED), (None, MISSING)]
)
def test_rounded_outputs_do_no_harm_only_if_they_lose_less_than_the_layers(psnr: float | None, wanted: str) -> None:
    """A difference that is not seen supports nothing. The default recipe's layers stand beside and decide nothing."""
    rows = [with_pictures(row("operations", PRESET, 0.02), 30.0)]
    rows.append(with_pictures(row("default", "default", 0.01), 55.0))
    if psnr is not None:
        step = with_pictures(row("operations", "x_{t-1}", 0.0), psnr)
        del step["per_picture"]["relative_l2"]
        rows.append(step)
    assert verdict_on("Rounding the network's outputs", rows) == wanted


@pytest.mark.parametrize(
    ("low", "high", "wanted"), [(-1.0, 2.0, SUPPORTED), (6.0, 9.0, CONTRADICTED), (-10.0, 10.0, UNDECIDED)]
)
def test_little_is_lost_if_the_interval_stays_below_a_twentieth(low: float, high: float, wanted: str) -> None:
    facts = {"measure": "Fréchet", "float": 100.0, "difference": (low + high) / 2, "low": low, "high": high, "n": 128}
    ours = {**facts, "difference": 50.0, "low": 49.0, "high": 51.0}
    rows = [{"question": "distribution", "variant": f"operations: {PRESET}", "facts": {"rows": [facts]}}]
    beside = {"question": "distribution", "variant": "default", "facts": {"rows": [ours]}}
    assert verdict_on("8 bits lose", [*rows, beside]) == wanted
    (claim,) = (item for item in verdicts([*rows, beside]) if item["claim"].startswith("8 bits lose"))
    assert [item["first"] for item in claim["comparisons"]] == [PRESET, "default"]
    assert verdict_on("8 bits lose", [beside]) == MISSING
    few = {"rows": [{**facts, "low": None, "high": None}]}
    assert verdict_on("8 bits lose", [{**rows[0], "facts": few}]) == UNDECIDED


@pytest.mark.parametrize(
    ("bits", "wanted"), [([1.0, 1.2, 1.1], SUPPORTED), ([0.1, 0.2, 0.15], CONTRADICTED), ([0.0, 0.5, 1.2], UNDECIDED)]
)
def test_activations_drift_where_the_mean_layer_does(bits: list[float], wanted: str) -> None:
    facts = {"layers": [{"layer": str(index), "drift": value} for index, value in enumerate(bits)]}
    rows = [{"question": "drift", "variant": "inputs of layers", "key": "d", "facts": facts}]
    assert verdict_on("The distribution of activations", rows) == wanted
    (claim,) = (item for item in verdicts(rows) if item["question"] == "drift")
    span = ttest_1samp(bits, 0).confidence_interval(0.95)
    assert f"[{span.low:.2f}, {span.high:.2f}]" in claim["comparisons"][0]["words"]


def test_comparisons_say_which_is_better() -> None:
    rows = [row("default", "default", 0.01), row("timesteps", "uniform", 0.02)]
    (claim,) = (item for item in verdicts(rows) if item["claim"].startswith("NDTC"))
    (comparison,) = claim["comparisons"]
    assert comparison["outcome"] == "better" and comparison["estimate"]["value"] == pytest.approx(-0.01)
    assert verdict_of({"low": 1.0, "high": 2.0}, higher_is_better=True) == "better"
    assert verdict_of({"low": 1.0, "high": 2.0}, higher_is_better=False) == "worse"
    assert verdict_of({"low": -1.0, "high": 2.0}, higher_is_better=True) == "no difference"
    assert verdict_of(None, higher_is_better=True) == "unknown"


def test_identical_pictures_are_left_out_of_a_difference() -> None:
    rows = [{**row("a", name, 0.1), "per_picture": {"picture_psnr": values}} for name, values in
            (("base", [30.0, None, 31.0]), ("other", [33.0, 32.0, 34.0]))]  # fmt: skip
    for each in rows:
        each["call"], each["picture"] = {}, {"psnr": {"mean": 30.0}}
    found = compared(rows[1], rows[0])["picture"]["psnr"]["difference"]
    assert found["n"] == 2 and found["value"] == pytest.approx(3.0)


def test_the_interval_of_few_pictures_covers_as_it_says() -> None:
    rng, covered, trials = np.random.default_rng(3), 0, 200
    for _ in range(trials):
        base = rng.normal(size=8)
        values = base + 0.5 + rng.normal(size=8)
        rows = [{"per_picture": {"relative_l2": each.tolist()}} for each in (values, base)]
        found = difference(rows[0], rows[1], "relative_l2")
        assert found is not None
        covered += found["low"] <= 0.5 <= found["high"]
    assert 0.9 <= covered / trials <= 0.99
