"""Cases: the variants of a question, told without any work being done; a case is run only if its row is not there yet.

An experiment is a function `(study) -> cases`. To add one, write it in a file of its own and name it in
`studies.experiments.EXPERIMENTS`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from torch import Tensor, nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.evaluation.environment import environment
from ptq4dm.evaluation.fidelity import CallErrors
from ptq4dm.evaluation.hardware import peak_memory, release_free_memory, reset_peak_memory, resident_memory
from ptq4dm.evaluation.sheet import is_picture
from ptq4dm.pipelines.sampling import sample_with
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.studies.float_walk import Trajectories, errors_along
from ptq4dm.studies.integer_products import integer_products
from ptq4dm.studies.rows import compared, measured
from ptq4dm.studies.store import FORMAT_VERSION, Row, Store, row_key
from ptq4dm.studies.study import Study

DEFAULT: Final = "default"
"""The question, and the variant, of the default recipe's row."""
SWEEP: Final = "sweep"
"""In identities: calibrated on the study's own trajectories, under the recipe's law."""


Painter = Callable[[Sequence[int], bool], Tensor]
"""Draws the pictures (n, c, h, w) in [0, 1] of some seeds; with a progress bar or without."""


@dataclass(frozen=True, eq=False)
class Case:
    """One variant of a question.

    identity: JSON data, all that the row depends on beside the model and the settings. run: does the work; returns the
    row's measures or facts. trajectories: how the pictures are drawn, None for a case without pictures. baseline: the
    case that this one is compared with. note: what a reader must know. painter: makes what draws the case's pictures,
    None for a case without pictures. shared: makes what other rows use too, so that its time counts for none of them.
    """

    question: str
    variant: str
    identity: Mapping[str, Any]
    run: Callable[[], dict[str, Any]]
    trajectories: Trajectories | None = None
    baseline: "Case | None" = None
    note: str = ""
    painter: Callable[[], Painter] | None = None
    shared: Callable[[], Any] | None = None


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
    shared: Callable[[], Any] | None = None,
) -> Case:
    """A case whose network is built, compared with the float one call by call, and drawn with."""
    asked = trajectories or study.trajectories
    against = baseline
    if baseline is None and asked == study.trajectories and question != DEFAULT:
        against = default_case(study)
    return Case(
        question,
        variant,
        identity,
        lambda: measure(study, build(), asked),
        asked,
        against,
        note,
        lambda: painter(study, build(), asked),
        shared,
    )


def measure(study: Study, network: nn.Module, asked: Trajectories) -> dict[str, Any]:
    """Call and picture measures of a network."""
    with integer_products(network.modules()):
        errors = errors_along(study.walk(asked), network, study.settings.batch_size, study.shown)
        return measure_pictures(study, painter(study, network, asked), asked, errors)


def measure_pictures(
    study: Study, paint: Painter, asked: Trajectories, errors: CallErrors | None = None
) -> dict[str, Any]:
    """Picture measures of what a painter draws for the test seeds, beside call measures where there are some."""
    drawn = paint(asked.seeds, study.shown)
    return {**measured(errors, study.walk(asked).pictures, drawn, study.extractor), "sheet": study.sheet(drawn)}


def painter(study: Study, network: nn.Module, asked: Trajectories, scheduler: Any = None) -> Painter:
    """What draws with a network as the test pictures `asked` are drawn; with a scheduler of its own in place of that
    sampler's."""
    used = scheduler or make_scheduler(asked.sampler, study.pipeline.scheduler.config)
    shape = study.pipeline.picture_shape

    def paint(seeds: Sequence[int], shown: bool) -> Tensor:
        with integer_products(network.modules()):
            return sample_with(network, used, shape, seeds, asked.steps, asked.batch_size, shown)

    return paint


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
        shared=collected,
    )


def default_case(study: Study) -> Case:
    """The default recipe, on the sweep under its law: what all rows are compared with."""
    identity = {"recipe": study.recipe.to_dict(), "calibration": SWEEP}
    return measured_case(study, DEFAULT, DEFAULT, identity, lambda: study.default_network)


def key_of(study: Study, case: Case) -> str:
    """The fingerprint of all that the row of a case depends on."""
    return row_key(
        {
            "model": study.model,
            "settings": study.size,
            "case": dict(case.identity),
            "trajectories": asdict(case.trajectories) if case.trajectories else None,
            "extractor": study.extractor.name if case.painter and study.extractor else None,
        }
    )


def saved_row(study: Study, store: Store, case: Case) -> Row | None:
    """The row of a case where it was measured before, told as the case tells it now."""
    row = store.find(case.question, case.variant, key_of(study, case))
    if row is None or not has_sheet(study, row):
        return None
    return told(case, row, saved_row(study, store, case.baseline) if case.baseline else None)


def row_of(study: Study, store: Store, case: Case) -> Row:
    """The row of a case: as saved, or found out now and saved at once."""
    baseline = row_of(study, store, case.baseline) if case.baseline else None
    row = saved_row(study, store, case)
    if row is None:
        key = key_of(study, case)
        same = store.same(key)
        row = told(case, same if same and has_sheet(study, same) else new_row(study, case, key), baseline)
        store.save(row)
    return row


def told(case: Case, row: Row, baseline: Row | None) -> Row:
    """A row under the case's name, with its differences from the baseline of the case: the row may have been measured
    for another question, or when it was compared with another row."""
    row = {**row, "question": case.question, "variant": case.variant, "note": case.note}
    if "per_picture" not in row or row["baseline"] == (baseline["key"] if baseline else None):
        return row
    return compared(row, baseline)


def has_sheet(study: Study, row: Row) -> bool:
    """Whether the pictures that a row names are there and whole, or it names none."""
    return not row.get("sheet") or is_picture(study.folder / row["sheet"])


def new_row(study: Study, case: Case, key: str) -> Row:
    """What is found out of a case now. What it shares with others is made first, and its time told apart."""
    started = time.perf_counter()
    study.prepare(case.trajectories)
    if case.shared:
        case.shared()
    release_free_memory()
    watched, before = reset_peak_memory(), resident_memory()
    begun = time.perf_counter()
    row = {
        "format_version": FORMAT_VERSION,
        "key": key,
        "baseline": None,
        "sampler": case.trajectories.sampler if case.trajectories else None,
        "steps": case.trajectories.steps if case.trajectories else None,
        **case.run(),
        "seconds": time.perf_counter() - begun,
        "shared_seconds": begun - started,
        "peak_bytes": max(0, peak_memory() - before) if watched else None,
        "environment": here(),
    }
    if case.identity.get("calibration") == SWEEP and "not_applicable" not in row:
        law = case.identity["recipe"]["calibration"]
        row["law_distance"] = study.law_distance(law["timesteps"], law["law_options"])
    return row


def here() -> dict[str, Any]:
    """What a row's figures may depend on beside its identity: where it was measured, and by which versions."""
    found = environment()
    return {
        name: found[name] for name in ("ptq4dm", "torch", "processor", "int8_instructions", "threads") if name in found
    }
