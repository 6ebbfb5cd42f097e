"""Distances of generated pictures from the data, for two models of the same seeds, and how sure their difference is."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.bootstrap import REPLICATES, Statistic, paired_difference
from ptq4dm.evaluation.class_score import class_score_statistic
from ptq4dm.evaluation.features import Extractor, Features, extract
from ptq4dm.evaluation.frechet import frechet_statistic, gaussian
from ptq4dm.evaluation.kernel_distance import kernel_statistic
from ptq4dm.progress import progress

FEWEST_FOR_INTERVAL = 16
"""With fewer pictures no interval is given: on synthetic Gaussians one of 4 pictures covers 75 %, not 95 %."""
STANDARD_NAMES = {
    "Fréchet distance": "FID",
    "spatial Fréchet distance": "sFID",
    "kernel distance": "KID",
    "class score": "Inception score",
}


def distribution(
    extractor: Extractor,
    float_pictures: Tensor,
    int8_pictures: Tensor,
    reference_pictures: Tensor,
    reference_name: str,
    replicates: int = REPLICATES,
    shown: bool = False,
) -> dict[str, Any]:
    """The section `distribution` of results.json for pictures (n, c, h, w) in [0, 1] of the same seeds."""
    if len(float_pictures) != len(int8_pictures) or len(float_pictures) < 2:
        raise EvaluationError(
            f"{len(float_pictures)} float and {len(int8_pictures)} INT8 pictures: give as many of each, of the same "
            "seeds, at least 2"
        )
    pictures = {"float": float_pictures, "int8": int8_pictures, "reference": reference_pictures}
    found = {what: extract(extractor, value, shown, f"features, {what}") for what, value in pictures.items()}
    return {
        "extractor": extractor.name,
        "reference": f"{len(reference_pictures)} {reference_name}",
        "n": len(float_pictures),
        "interval": "95 % paired bootstrap",
        "rows": feature_rows(extractor, found["float"], found["int8"], found["reference"], replicates, shown),
    }


def feature_rows(
    extractor: Extractor,
    float_: Features,
    int8: Features,
    reference: Features,
    replicates: int = REPLICATES,
    shown: bool = False,
) -> list[dict[str, Any]]:
    """One row a measure: both models, the difference INT8 - float, its paired interval and what it could detect (None
    with fewer pictures than FEWEST_FOR_INTERVAL)."""
    rows = []
    plan = measures(reference)
    with progress("paired bootstrap", len(plan), shown) as advance:
        for name, make, lower_is_better in plan:
            first, second = make(float_), make(int8)
            ones = np.ones(len(float_.pooled))
            change = paired_difference(first, second, len(ones), replicates)
            covered = change.n >= FEWEST_FOR_INTERVAL
            rows.append(
                {
                    "measure": measure_name(name, extractor),
                    "float": first(ones),
                    "int8": second(ones),
                    "difference": change.value,
                    "low": change.low if covered else None,
                    "high": change.high if covered else None,
                    "standard_error": change.standard_error if covered else None,
                    "detectable": change.detectable if covered else None,
                    "n": change.n,
                    "lower_is_better": lower_is_better,
                }
            )
            advance(1)
    return rows


def measures(reference: Features) -> list[tuple[str, Callable[[Features], Statistic], bool]]:
    """Name, statistic of a model's features, and whether lower is better."""
    pooled, spatial = gaussian(reference.pooled), gaussian(reference.spatial)
    return [
        ("Fréchet distance", lambda features: frechet_statistic(features.pooled, pooled), True),
        ("spatial Fréchet distance", lambda features: frechet_statistic(features.spatial, spatial), True),
        ("kernel distance", lambda features: kernel_statistic(features.pooled, reference.pooled), True),
        ("class score", lambda features: class_score_statistic(features.logits), False),
    ]


def measure_name(name: str, extractor: Extractor) -> str:
    """The measure with its extractor; the well-known names only on the standard Inception network."""
    return f"{STANDARD_NAMES[name] if extractor.standard else name} ({extractor.name})"
