"""Fidelity, speed and size of deployed networks, all in one run: the rows of the table, as plain JSON data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peers.peer import Deployed, Subject
from ptq4dm.evaluation.bootstrap import mean_difference
from ptq4dm.evaluation.fidelity import CallErrors, compare_calls
from ptq4dm.evaluation.speed import alternate, spread
from ptq4dm.studies.rows import for_few

FIRST_SEED = 1_000_000
SAMPLER = "ddim"


@dataclass(frozen=True)
class Effort:
    """How much is measured: pictures whose float trajectories are walked, in so many steps, in batches of `batch`,
    which is also what is timed; rounds of timing."""

    pictures: int
    steps: int
    batch: int
    rounds: int


def fidelity(subject: Subject, deployed: Mapping[str, Deployed], effort: Effort, shown: bool) -> dict[str, CallErrors]:
    """Errors of calls on the x_t of the float trajectories: every network gets the same ones."""
    seeds = range(FIRST_SEED, FIRST_SEED + effort.pictures)
    runs: dict[str, Any] = {name: item.run for name, item in deployed.items()}
    return compare_calls(subject.pipeline, runs, SAMPLER, effort.steps, seeds, effort.batch, shown).errors


def times(deployed: Mapping[str, Deployed], x_t: Tensor, timestep: Tensor, rounds: int, shown: bool) -> dict[str, Any]:
    """Seconds of one call by name, one a round, taking turns."""
    callers = {name: lambda run=item.run: run(x_t, timestep) for name, item in deployed.items()}
    with torch.no_grad():
        return alternate(callers, rounds, shown=shown)


def fidelity_row(errors: CallErrors, ours: CallErrors) -> dict[str, Any]:
    """Means over pictures and steps, the curve over t, the mean of each picture, and how much larger the error is than
    ours, paired by picture, with the interval of a study's rows (None of a single picture)."""
    own, other = ours.relative_l2.mean(1).numpy(), errors.relative_l2.mean(1).numpy()
    estimate = None
    if len(own) > 1:
        estimate = for_few(mean_difference(own, other)).to_dict()
    return {**errors.to_dict(), "per_picture": other.tolist(), "more_than_ours": estimate}


def is_finite(errors: CallErrors) -> bool:
    """Whether a network answered every call with numbers."""
    return bool(torch.isfinite(errors.relative_l2).all())


def speed_row(seconds: Sequence[float], eager: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of the seconds, and round by round of the gain over eager and of how far we are ahead."""
    return {
        "seconds": vars(spread(seconds)),
        "over_eager": vars(spread([a / b for a, b in zip(eager, seconds, strict=True)])),
        "ours_faster": vars(spread([a / b for a, b in zip(seconds, ours, strict=True)])),
    }
