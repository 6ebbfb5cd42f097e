"""The verdict: for each claim of the paper, do this model's rows support it, contradict it, or not decide it?

Computed from the rows: a paired difference whose interval leaves 0 on one side decides, one that holds 0 does not.
A claim that "A is better than each of B" is supported if A is better than every B, contradicted if some B is better
than A, else not decided. Call-level relative L2 decides, since it is measured most finely, and the PSNR of the same
pictures must not say the opposite beyond its interval; where a row has no error of calls (steps of the sampler), the
pictures alone decide. Averaged over all time-steps alike, the error of a call favours uniform time-steps: what wins
against them by it does so in spite of that.

"Does no harm" and "little loss" are nothing that an interval which holds 0 could show: too few pictures would do for
that. So rounding outputs does no harm if it loses less than the INT8 layers do, and the loss of 8 bits is little if it
is less than a stated share of the float model's own distance from the data. Both are claims about the paper's method,
so the preset `w8a8-paper` is judged; how the default recipe fares stands beside it.

The paper's figures are beside it as its words say them, FID most of them: another measure on another model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ptq4dm.studies.comparisons import (
    CONTRADICTED,
    MISSING,
    SUPPORTED,
    UNDECIDED,
    Comparison,
    Rows,
    better_than_each,
    compare,
    found_in,
)
from ptq4dm.studies.rows import interval_of_mean
from ptq4dm.studies.store import Row
from ptq4dm.studies.variants import AS_MANY, DEFAULT_CALIBRATION, NAIVE, PRESET, STEP, UNIFORM_AS_MANY


@dataclass(frozen=True)
class Claim:
    """claim: in our words. published: the paper's figures. judge: verdict and the comparisons that led to it."""

    question: str
    claim: str
    published: str
    judge: Callable[[Rows], tuple[str, list[Comparison]]]


def verdicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every claim with its verdict and the comparisons, as JSON data."""
    found = {(row["question"], row["variant"]): row for row in rows}
    results = []
    for item in CLAIMS:
        verdict, comparisons = item.judge(found)
        results.append(
            {
                "question": item.question,
                "claim": item.claim,
                "published": item.published,
                "verdict": verdict,
                "comparisons": [dict(vars(comparison)) for comparison in comparisons],
            }
        )
    return results


def one_step_fails(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether the default law on as many samples is better than every calibration at one time-step."""
    ones = [key for start in ("start", "middle", "end") for key in found_in(rows, "timesteps", start)]
    return better_than_each(rows, ("timesteps", AS_MANY), ones)


def denoising_is_best(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether the denoising trajectory is better than each other source."""
    first = ("sources", "denoising trajectory")
    names = ("pure noise", "raw pictures", "training-style noised pictures")
    return better_than_each(rows, first, [("sources", name) for name in names])


def mse_is_best(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether MSE is better than L1, cosine and KL."""
    return better_than_each(rows, ("metrics", "MSE"), [("metrics", name) for name in ("cosine", "KL", "L1")])


def ndtc_beats_uniform(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether the default law is better than uniform time-steps."""
    return better_than_each(rows, ("default", "default"), [("timesteps", "uniform")])


def small_t_is_better(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether normal laws at small t are better than those at large t, as far from the middle."""
    made = []
    for small, large in (("0.1", "0.9"), ("0.3", "0.7")):
        firsts, seconds = (found_in(rows, "timesteps", f"normal, μ = {where} T") for where in (small, large))
        made += [compare(rows, one, other) for one in firsts for other in seconds]
    known = [item for item in made if item]
    outcomes = {item.outcome for item in known}
    if not known:
        return MISSING, known
    return SUPPORTED if outcomes == {"better"} else CONTRADICTED if outcomes == {"worse"} else UNDECIDED, known


def must_cover_many(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether uniform time-steps are better than the small t alone, on as many samples."""
    return better_than_each(rows, ("timesteps", UNIFORM_AS_MANY), found_in(rows, "timesteps", "start"))


def outputs_do_no_harm(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether rounding μ, Σ or x_{t-1} loses less than the INT8 layers of the paper's preset do."""
    pairs = [(STEP, ("operations", PRESET), ("default", "default"))]
    noisy = [name for _, name in found_in(rows, "operations", f"{STEP}, ddpm")]
    for name in (*noisy, "variance Σ", "posterior mean μ"):
        presets, defaults = (found_in(rows, "operations", f"{start}, ddpm") for start in (PRESET, "default recipe"))
        pairs += [(name, one, other) for one, other in zip(presets, defaults, strict=False)]
    judged = [item for name, one, _ in pairs if (item := compare(rows, ("operations", name), one))]
    beside = [item for name, _, other in pairs if (item := compare(rows, ("operations", name), other))]
    if not judged:
        return MISSING, beside
    outcomes = {item.outcome for item in judged}
    verdict = CONTRADICTED if "worse" in outcomes else SUPPORTED if outcomes == {"better"} else UNDECIDED
    return verdict, judged + beside


def activations_drift(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether the inputs of layers drift by more than `DRIFTS` bits, on the mean over layers."""
    found = [row["facts"]["layers"] for (question, _), row in rows.items() if question == "drift"]
    bits = [layer["drift"] for layer in found[0]] if found else []
    span = interval_of_mean(bits)
    if span is None:
        return MISSING, []
    outcome = "better" if span[0] > DRIFTS else "worse" if span[1] < DRIFTS else "no difference"
    mean = sum(bits) / len(bits)
    words = (
        f"the inputs of {len(bits)} layers drift by {mean:.2f} bits on their mean [{span[0]:.2f}, {span[1]:.2f}], "
        f"where {DRIFTS:g} counts as drift"
    )
    estimate = {"value": mean, "low": span[0], "high": span[1], "n": len(bits)}
    verdict = {"better": SUPPORTED, "worse": CONTRADICTED}.get(outcome, UNDECIDED)
    return verdict, [Comparison("inputs of layers", f"{DRIFTS:g} bits", outcome, "drift", estimate, words=words)]


def not_of_a_study(rows: Rows) -> tuple[str, list[Comparison]]:
    """No rows tell."""
    return MISSING, []


def float_operations_matter(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether rounding SiLU, softmax or normalisation harms more than any kind that the paper quantizes."""
    kept = [("operations", name) for name in ("SiLU", "softmax", "normalisation")]
    quantized = [("operations", name) for name in ("convolutions", "linear layers", "attention products")]
    made = [item for item in (compare(rows, one, other) for one in quantized for other in kept) if item]
    outcomes = {item.outcome for item in made}
    if "worse" in outcomes:
        return CONTRADICTED, made
    if len(made) < len(kept) * len(quantized):
        return MISSING, made
    return SUPPORTED if outcomes == {"better"} else UNDECIDED, made


def little_is_lost(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether the pictures of the paper's preset are at most `LITTLE` farther from the data than the float model's."""
    judged, beside = loss_of(rows, f"operations: {PRESET}"), loss_of(rows, "default")
    return (judged[0] if judged else MISSING), [item[1] for item in (judged, beside) if item and item[1]]


def loss_of(rows: Rows, variant: str) -> tuple[str, Comparison | None] | None:
    """Whether what a network loses is little; None where it was not measured."""
    row = rows.get(("distribution", variant))
    if row is None or "facts" not in row:
        return None
    first = row["facts"]["rows"][0]
    if first["low"] is None:  # too few pictures for an interval
        return UNDECIDED, None
    most = LITTLE * first["float"]
    estimate = {"value": first["difference"], "low": first["low"], "high": first["high"], "n": first["n"]}
    outcome = "better" if first["high"] < most else "worse" if first["low"] > most else "no difference"
    within = f"the float model, {LITTLE:.0%} of its distance ({most:.3g}) allowed"
    verdict = {"better": SUPPORTED, "worse": CONTRADICTED}.get(outcome, UNDECIDED)
    return verdict, Comparison(variant.removeprefix("operations: "), within, outcome, first["measure"], estimate)


def any_sampler_gains(rows: Rows) -> tuple[str, list[Comparison]]:
    """Whether under every sampler the default calibration is better than one at one time-step."""
    defaults = [key for key in rows if key[0] == "samplers" and key[1].endswith(DEFAULT_CALIBRATION)]
    made = []
    for key in defaults:
        sampler = key[1].split(":")[0]
        made.append(compare(rows, key, ("samplers", f"{sampler}: {NAIVE}")))
    known = [item for item in made if item]
    if not known:
        return MISSING, known
    outcomes = [item.outcome for item in known]
    if "worse" in outcomes:
        return CONTRADICTED, known
    return SUPPORTED if all(outcome == "better" for outcome in outcomes) else UNDECIDED, known


LITTLE: Final = 0.05
"""Of the float model's distance from the data: a loss below that is little."""
DRIFTS: Final = 0.5
"""Bits beyond which the mean layer drifts: its inputs are wider by two fifths at some t than at others."""
CLAIMS: Final = (
    Claim(
        "drift",
        "The distribution of activations changes with the time-step; as read here: the mean layer's input is wider at "
        f"some time-steps than at others by {DRIFTS:g} bits or more.",
        "shown as a figure, no numbers that can be set beside these; the reading is ours",
        activations_drift,
    ),
    Claim(
        "timesteps",
        "Calibrated at one time-step alone, as a classifier is, a diffusion model suffers.",
        "shown as a figure, no numbers that can be set beside these",
        one_step_fails,
    ),
    Claim(
        "operations",
        "SiLU, softmax and normalisation should stay in float; as read here: rounding any of them harms more than any "
        "kind of operation that is quantized.",
        "they are kept in float, without figures; the reading is ours",
        float_operations_matter,
    ),
    Claim(
        "operations",
        "Rounding the network's outputs (μ, Σ or x_{t-1}) does no harm.",
        "ImageNet64 FID 21.38 / 21.96 / 21.94 against 21.63 in float",
        outputs_do_no_harm,
    ),
    Claim(
        "sources",
        "Inputs from the float model's own denoising beat pure noise, raw pictures and training-style noised pictures.",
        "ImageNet64, DDIM-250: FID 33.15 noise, 128.63 raw pictures, 34.55 training-style; 23.96 with NDTC",
        denoising_is_best,
    ),
    Claim(
        "timesteps",
        "Samples nearer x_0 (small t) serve better than those near pure noise.",
        "shown as a figure, no numbers that can be set beside these",
        small_t_is_better,
    ),
    Claim(
        "timesteps",
        "Samples must still cover many different t.",
        "shown as a figure, no numbers that can be set beside these",
        must_cover_many,
    ),
    Claim(
        "metrics",
        "MSE is a better distance to choose ranges by than cosine, KL or L1.",
        "FID 30.46 MSE, 34.81 cosine, 47.27 KL, 100.52 L1",
        mse_is_best,
    ),
    Claim(
        "timesteps",
        "NDTC (skewed normal time-steps) beats uniform ones.",
        "ImageNet64, DDIM-250: FID 23.96 NDTC, 26.19 uniform; a reproduction found 12.85 and 10.71 on CIFAR-10",
        ndtc_beats_uniform,
    ),
    Claim(
        "samplers",
        "The method is a plug-in: it gains under any sampler.",
        "FID float / INT8: CIFAR-10 10.05 / 14.18 (DDIM-100), 8.91 / 11.66 (DDIM-250), 7.14 / 7.10 (DDPM-4000)",
        any_sampler_gains,
    ),
    Claim(
        "distribution",
        "8 bits lose little or nothing.",
        "FID float / INT8: CIFAR-10 8.91 / 11.66, ImageNet64 21.63 / 23.96 (DDIM-250)",
        little_is_lost,
    ),
    Claim(
        "speed",
        "INT8 is about twice as fast in principle.",
        "about 2x, not measured; a study measures no speed: `ptq4dm bench` does, engine by engine",
        not_of_a_study,
    ),
)
