"""Cases: the variants of a question, told without any work being done; a case is run only if its row is not there yet.

An experiment is a function `(study) -> cases`. To add one, write it in a file of its own and name it in
`studies.experiments.EXPERIMENTS`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from torch import nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.evaluation.hardware import peak_memory, release_free_memory, reset_peak_memory
from ptq4dm.pipelines.sampling import sample
from ptq4dm.studies.float_walk import Trajectories, errors_along
from ptq4dm.studies.rows import compared, measured
from ptq4dm.studies.store import FORMAT_VERSION, Row, Store, row_key
from ptq4dm.studies.study import Study

DEFAULT: Final = "default"
"""The question, and the variant, of the default recipe's row."""
SWEEP: Final = "sweep"
"""In identities: calibrated on the study's own trajectories, under the recipe's law."""


@dataclass(frozen=True, eq=False)
class Case:
    """One variant of a question.

    identity: JSON data, all that the row depends on beside the model and the settings. run: does the work; returns the
    row's measures or facts. trajectories: how the pictures are drawn, None for a case without pictures. baseline: the
    case that this one is compared with. note: what a reader must know. build: makes the case's network again.
    """

    question: str
    variant: str
    identity: Mapping[str, Any]
    run: Callable[[], dict[str, Any]]
    trajectories: Trajectories | None = None
    baseline: "Case | None" = None
    note: str = ""
    build: Callable[[], nn.Module] | None = None


Experiment = Callable[[Study], Sequence[Case]]


def measured_case(
    study: Study,
    question: str,
    variant: str,
    identity: Mapping[str, Any],
    build: Callable[[], nn.Module],
    *,
    trajectories: Trajectories | None = None,
    baseline: Case | None = None,
    note: str = "",
) -> Case:
    """A case whose network is built, compared with the float one call by call, and drawn with."""
    asked = trajectories or study.trajectories
    against = baseline
    if baseline is None and asked == study.trajectories and question != DEFAULT:
        against = default_case(study)
    return Case(question, variant, identity, lambda: measure(study, build(), asked), asked, against, note, build)


def measure(study: Study, network: nn.Module, asked: Trajectories) -> dict[str, Any]:
    """Call and picture measures of a network."""
    walked = study.walk(asked)
    own, pipeline = study.settings, study.pipeline
    errors = errors_along(walked, network, own.batch_size, study.shown)
    config, shape = pipeline.scheduler.config, pipeline.picture_shape
    drawn = sample(network, asked.sampler, config, shape, asked.seeds, asked.steps, own.batch_size, study.shown)
    return {**measured(errors, walked.pictures, drawn), "sheet": study.sheet(drawn)}


def recipe_case(study: Study, question: str, variant: str, changes: Mapping[str, Any], note: str = "") -> Case:
    """A case that changes the default recipe only, on the sweep under the recipe's law."""
    recipe = study.recipe.replace(**changes)
    identity = {"recipe": recipe.to_dict(), "calibration": SWEEP}
    return measured_case(study, question, variant, identity, lambda: study.under_law(recipe), note=note)


def set_case(
    study: Study,
    question: str,
    variant: str,
    how: Mapping[str, Any],
    collected: Callable[[], CalibrationSet],
    *,
    trajectories: Trajectories | None = None,
    baseline: Case | None = None,
    note: str = "",
) -> Case:
    """A case calibrated on a set of samples of its own. how: JSON data, which set that is."""
    recipe = study.recipe
    identity = {"recipe": recipe.to_dict(), "calibration": dict(how)}
    return measured_case(
        study,
        question,
        variant,
        identity,
        lambda: study.on_set(recipe, collected()),
        trajectories=trajectories,
        baseline=baseline,
        note=note,
    )


def default_case(study: Study) -> Case:
    """The default recipe, on the sweep under its law: what all rows are compared with."""
    identity = {"recipe": study.recipe.to_dict(), "calibration": SWEEP}
    return measured_case(study, DEFAULT, DEFAULT, identity, lambda: study.default_network)


def row_of(study: Study, store: Store, case: Case) -> Row:
    """The row of a case: as saved, or found out now and saved at once."""
    baseline = row_of(study, store, case.baseline) if case.baseline else None
    identity = {
        "model": study.model,
        "settings": {**asdict(study.settings), "distribution": None},
        "case": dict(case.identity),
        "trajectories": asdict(case.trajectories) if case.trajectories else None,
    }
    key = row_key(identity)
    row = store.find(case.question, case.variant, key)
    if row is None and (same := store.same(key)):
        row = {**same, "question": case.question, "variant": case.variant, "note": case.note}
        store.save(row)
    if row is None:
        study.prepare(case.trajectories)
        release_free_memory()
        watched = reset_peak_memory()
        started = time.perf_counter()
        row = {
            "format_version": FORMAT_VERSION,
            "question": case.question,
            "variant": case.variant,
            "key": key,
            "note": case.note,
            "baseline": None,
            "sampler": case.trajectories.sampler if case.trajectories else None,
            "steps": case.trajectories.steps if case.trajectories else None,
            **case.run(),
            "seconds": time.perf_counter() - started,
            "peak_bytes": peak_memory() if watched else None,
        }
        row = compared(row, baseline) if baseline and "per_picture" in row else row
        store.save(row)
    return row
