"""Which distance chooses the ranges: L1, MSE, L_p, cosine, KL, percentile, min-max."""

from collections.abc import Sequence
from typing import Any, Final

from ptq4dm.studies.cases import Case, recipe_case
from ptq4dm.studies.study import Study

METRICS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "MSE": ("mse", {}),
    "L1": ("l1", {}),
    "L_p, p = 2.4": ("lp", {"p": 2.4}),
    "L_p, p = 4": ("lp", {"p": 4.0}),
    "cosine": ("cosine", {}),
    "KL": ("kl", {}),
    "percentile 99.99": ("percentile", {"percent": 99.99}),
    "min-max": ("minmax", {}),
}


def metrics(study: Study) -> Sequence[Case]:
    """A case for each metric."""
    return [
        recipe_case(study, "metrics", name, {"ranges": {"metric": metric, "metric_options": options}})
        for name, (metric, options) in METRICS.items()
    ]
