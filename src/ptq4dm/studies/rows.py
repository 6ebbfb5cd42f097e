"""Rows: what is measured of one variant of a question, and how it differs from the row it is compared with.

A row is JSON data:

    question, variant, key      key: the fingerprint of all that it depends on
    note                        what a reader must know of it ("" for none), such as that it is a known fault
    baseline                    the key of the row it is compared with; None for a baseline itself
    sampler, steps, n           how its n pictures were drawn
    call, picture               `relative_l2` and `psnr` of single calls, `psnr` and `perceptual` (the distance of
                                `evaluation.features`, where an extractor is installed) of pictures: a mean, `identical`
                                where there is no error at all, and `difference` from the baseline: a paired estimate
                                (None for a baseline, or where fewer than 2 pictures have an error in both)
    curve                       against t: the mean relative L2 of a call with its standard error over pictures, and
                                the mean PSNR (None where all are identical)
    sheet                       the file of the first pictures, in the study's folder
    per_picture                 what the means are taken over
    seconds, peak_bytes         to make it and measure it: the time, and how far memory rose above what was held before
    shared_seconds              before that, for parts that other rows use too: who comes first makes them
    environment                 processor, threads and versions that it was measured with
    law_distance                of rows calibrated on the sweep: how far the law is from those whose ranges the sweep
                                gives exactly (D of `ranges.laws`); 0 for such a one
    facts                       more that is known of the variant
    not_applicable              in place of all measures: why the model has no such row

The means are over pictures (of a call's measures, over its time-steps first). Differences are "this row less the
baseline", with the paired bootstrap of `evaluation.bootstrap`: the same pictures are resampled in both; intervals are
widened for few pictures (`for_few`). They tell what other test pictures could change, not what another draw of the
calibration could.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from scipy.stats import t as student_t
from torch import Tensor

from ptq4dm.evaluation.bootstrap import POWER, Estimate, mean_difference
from ptq4dm.evaluation.features import Extractor, feature_distance
from ptq4dm.evaluation.fidelity import CallErrors, mean_db, picture_psnr
from ptq4dm.studies.store import Row

MEASURES: Final = {
    "relative_l2": ("call", "relative_l2"),
    "call_psnr": ("call", "psnr"),
    "picture_psnr": ("picture", "psnr"),
    "perceptual": ("picture", "perceptual"),
}
"""The measures of a row, each with its place."""
DISTANCES: Final = ("relative_l2", "perceptual")
"""Those that are 0 where there is no error; the others are in dB, and None there."""


def measured(errors: CallErrors | None, wanted: Tensor, got: Tensor, extractor: Extractor | None) -> dict[str, Any]:
    """The measures of a row: errors of single calls (None where all calls are the float network's), and pictures
    (n, c, h, w) against those of the float model, seen through an extractor too where there is one."""
    per_picture: dict[str, list[float | None]] = {}
    if errors is not None:
        per_picture["relative_l2"] = errors.relative_l2.mean(1).tolist()
        per_picture["call_psnr"] = [mean_db(row) for row in errors.psnr]
    per_picture["picture_psnr"] = [
        value if np.isfinite(value) else None for value in picture_psnr(wanted, got).tolist()
    ]
    if extractor is not None:
        per_picture["perceptual"] = feature_distance(extractor, wanted, got).tolist()
    row: dict[str, Any] = {"n": len(wanted), "call": {}, "picture": {}, "per_picture": per_picture}
    for name in per_picture:
        level, key = MEASURES[name]
        values = [value for value in per_picture[name] if value is not None]
        row[level][key] = {
            "mean": float(np.mean(values)) if values else None,
            "identical": per_picture[name].count(0.0 if name in DISTANCES else None),
            "difference": None,
        }
    if errors is not None:
        row["curve"] = {
            "t": errors.timesteps.tolist(),
            "relative_l2": errors.relative_l2.mean(0).tolist(),
            "standard_error": (errors.relative_l2.std(0) / len(wanted) ** 0.5).tolist(),
            "psnr": [mean_db(column) for column in errors.psnr.unbind(1)],
        }
    return row


def compared(row: Row, baseline: Row | None) -> Row:
    """The row with its differences from a baseline of the same pictures; without any for None."""
    key = baseline["key"] if baseline else None
    result = {**row, "baseline": key, "call": dict(row["call"]), "picture": dict(row["picture"])}
    for name, (level, measure) in MEASURES.items():
        if name not in row["per_picture"]:
            continue
        found = difference(row, baseline, name) if baseline else None
        result[level][measure] = {**row[level][measure], "difference": found}
    return result


def difference(row: Row, baseline: Row, name: str) -> dict[str, Any] | None:
    """One measure of a row less that of a baseline, as a paired estimate; None with fewer than 2 pairs."""
    values, base = row["per_picture"][name], baseline["per_picture"][name]
    pairs = [(a, b) for a, b in zip(base, values, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    first, second = np.asarray(pairs).T
    return for_few(mean_difference(first, second)).to_dict()


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of some values, by Student's t; None with fewer than 2."""
    if len(values) < 2:
        return None
    half = float(student_t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def for_few(estimate: Estimate) -> Estimate:
    """The estimate of a mean, its interval widened for few pictures.

    The standard deviation of the replicates of a mean of n is too small by the root of (n - 1) / n, and few pictures
    know it badly: Student's t takes the place of the normal law. Of 8 pictures the plain interval covers 89 %.
    """
    error = estimate.standard_error * math.sqrt(estimate.n / (estimate.n - 1))
    half = error * float(student_t.ppf(0.5 + estimate.confidence / 2, estimate.n - 1))
    seen = error * float(student_t.ppf(POWER, estimate.n - 1))
    low, high = estimate.value - half, estimate.value + half
    return replace(estimate, low=low, high=high, standard_error=error, detectable=half + seen)


def verdict_of(estimate: Mapping[str, Any] | None, higher_is_better: bool) -> str:
    """`better`, `worse` or `no difference` by the interval of a difference; `unknown` where there is none."""
    if estimate is None:
        return "unknown"
    if estimate["low"] <= 0.0 <= estimate["high"]:
        return "no difference"
    return "better" if (estimate["low"] > 0) == higher_is_better else "worse"
