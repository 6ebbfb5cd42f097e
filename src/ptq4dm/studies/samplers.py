"""Is the gain independent of the sampler, and does one calibration serve them all?

Under each sampler three networks draw: calibrated on the default sampler's trajectories, on that sampler's own, and at
one time-step alone, as for a classifier; all on as many samples. The first is what the others are compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from torch import nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.studies.cases import Case, measured_case
from ptq4dm.studies.float_walk import Trajectories
from ptq4dm.studies.samples import few_identity, few_samples, few_set
from ptq4dm.studies.settings import Settings
from ptq4dm.studies.study import Study
from ptq4dm.studies.variants import DEFAULT_CALIBRATION, NAIVE, OTHER

FULL: Final = (("ddpm", 1000), ("ddim", 100), ("ddim", 50), ("ddim", 20), ("dpmsolver++", 20), ("unipc", 10))
QUICK: Final = (("dpmsolver++", 10), ("unipc", 10))
LONG: Final = 200
"""Steps beyond which few pictures are drawn, and no calibration of the sampler's own is made."""
FEW_PICTURES: Final = 4
"""How many."""
ONE_STEP: Final = {"timesteps": "single", "law_options": {"t": 0}}
"""The naive calibration: where pictures are finished, as one would calibrate a classifier."""


def samplers(study: Study) -> Sequence[Case]:
    """Two or three cases a sampler."""
    samples = few_samples(study)
    default = Calibration(study, few_identity(study), lambda: few_set(study))
    naive = Calibration.collected(study, {**ONE_STEP, "samples": samples})
    asked = QUICK if study.settings.quick else FULL
    return [case for name, steps in asked for case in of_sampler(study, name, steps, default, naive)]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A set of samples, what it depends on, and the network calibrated on it, made once for all samplers."""

    study: Study
    how: Mapping[str, Any]
    samples: Callable[[], CalibrationSet]

    @staticmethod
    def collected(study: Study, changes: Mapping[str, Any]) -> "Calibration":
        """Of a set that is collected with changes to the calibration of the recipe."""
        return Calibration(study, changes, lambda: study.collected(**changes))

    @cached_property
    def network(self) -> nn.Module:
        """Calibrated on these samples."""
        return self.study.on_set(self.study.recipe, self.samples())


def of_sampler(study: Study, name: str, steps: int, default: Calibration, naive: Calibration) -> list[Case]:
    """The cases of one sampler. default, naive: the calibrations that are the same for all samplers."""
    own = study.settings
    steps = min(steps, study.pipeline.num_train_timesteps)
    seeds = tuple(own.test_seeds)[: FEW_PICTURES if steps > LONG else own.pictures]
    asked = Trajectories(name, steps, seeds, own.kept_calls, own.batch_size)

    def case(variant: str, calibration: Calibration, baseline: Case | None) -> Case:
        return measured_case(
            study,
            "samplers",
            f"{name}-{steps}: {variant}",
            {"recipe": study.recipe.to_dict(), "calibration": dict(calibration.how)},
            lambda: calibration.network,
            trajectories=asked,
            baseline=baseline,
            note=few_note(seeds, own),
            shared=lambda: calibration.network,
        )

    first = case(DEFAULT_CALIBRATION, default, None)
    cases = [first, case(NAIVE, naive, first)]
    if steps <= LONG and (name, steps) != (own.sampler, own.steps):
        of_this = Calibration.collected(study, {"sampler": name, "steps": steps, "samples": few_samples(study)})
        cases.insert(1, case(OTHER, of_this, first))
    return cases


def few_note(seeds: Sequence[int], own: Settings) -> str:
    """Why there are few pictures."""
    return f"{len(seeds)} pictures: paired measures only" if len(seeds) < own.pictures else ""
