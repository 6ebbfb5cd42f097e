"""Is the gain independent of the sampler, and does one calibration serve them all?

Under each sampler three networks draw: calibrated on the default sampler's trajectories, on that sampler's own, and at
one time-step alone, as for a classifier; all on as many samples. The first is what the others are compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from torch import nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.studies.cases import Case, measured_case
from ptq4dm.studies.float_walk import Trajectories
from ptq4dm.studies.samples import few_identity, few_samples, few_set
from ptq4dm.studies.sentences import NAIVE, OTHER
from ptq4dm.studies.settings import Settings
from ptq4dm.studies.study import Study

FULL: Final = (("ddpm", 1000), ("ddim", 100), ("ddim", 50), ("ddim", 20), ("dpmsolver++", 20), ("unipc", 10))
QUICK: Final = (("ddim", 16), ("dpmsolver++", 10), ("unipc", 10))
LONG: Final = 200
"""Steps beyond which few pictures are drawn, and no calibration of the sampler's own is made."""
FEW_PICTURES: Final = 4
"""How many."""
ONE_STEP: Final = {"timesteps": "single", "law_options": {"t": 0}}
"""The naive calibration: where pictures are finished, as one would calibrate a classifier."""
DEFAULT: Final = "default calibration"


def samplers(study: Study) -> Sequence[Case]:
    """Two or three cases a sampler."""
    samples = few_samples(study)
    default = cache(lambda: study.on_set(study.recipe, few_set(study)))
    naive = cache(lambda: study.on_set(study.recipe, study.collected(**ONE_STEP, samples=samples)))
    asked = QUICK if study.settings.quick else FULL
    return [case for name, steps in asked for case in of_sampler(study, name, steps, samples, default, naive)]


def of_sampler(
    study: Study, name: str, steps: int, samples: int, default: Callable[[], nn.Module], naive: Callable[[], nn.Module]
) -> list[Case]:
    """The cases of one sampler. default, naive: the networks that are the same for all samplers."""
    own = study.settings
    steps = min(steps, study.pipeline.num_train_timesteps)
    seeds = tuple(own.test_seeds)[: FEW_PICTURES if steps > LONG else own.pictures]
    asked = Trajectories(name, steps, seeds, own.kept_calls, own.batch_size)

    def case(
        variant: str,
        how: Mapping[str, Any],
        build: Callable[[], nn.Module],
        baseline: Case | None,
        shared: Callable[[], Any],
    ) -> Case:
        identity = {"recipe": study.recipe.to_dict(), "calibration": dict(how)}
        title = f"{name}-{steps}: {variant}"
        return measured_case(
            study,
            "samplers",
            title,
            identity,
            build,
            trajectories=asked,
            baseline=baseline,
            note=few_note(seeds, own),
            shared=shared,
        )

    def own_set() -> CalibrationSet:
        return study.collected(sampler=name, steps=steps, samples=samples)

    def own_network() -> nn.Module:
        return study.on_set(study.recipe, own_set())

    first = case(DEFAULT, few_identity(study), default, None, default)
    cases = [first, case(NAIVE, {**ONE_STEP, "samples": samples}, naive, first, naive)]
    if steps <= LONG and (name, steps) != (own.sampler, own.steps):
        own_how = {"sampler": name, "steps": steps, "samples": samples}
        cases.insert(1, case(OTHER, own_how, own_network, first, own_set))
    return cases


def few_note(seeds: Sequence[int], own: Settings) -> str:
    """Why there are few pictures."""
    return f"{len(seeds)} pictures: paired measures only" if len(seeds) < own.pictures else ""
