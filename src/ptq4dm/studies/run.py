"""Run a study: every case of the chosen experiments, each row saved as soon as it is known; results after each."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from diffusers import DiffusionPipeline
from torch import Tensor

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.environment import environment
from ptq4dm.files import exclusive, make_folder, write_json
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline, require_unconditional
from ptq4dm.progress import progress
from ptq4dm.studies.cases import DEFAULT, Case, default_case, row_of, saved_row
from ptq4dm.studies.distributions import distribution_cases
from ptq4dm.studies.experiments import EXPERIMENTS
from ptq4dm.studies.settings import FULL, QUICK, Settings
from ptq4dm.studies.standing import standing
from ptq4dm.studies.store import FORMAT_VERSION, Row, Store
from ptq4dm.studies.study import Study
from ptq4dm.studies.verdict import verdicts
from ptq4dm.workflow import in_float32

RESULTS: Final = "study.json"


def run_study(
    model: str | Path | DiffusionPipeline | Pipeline,
    out: str | Path,
    *,
    quick: bool = False,
    only: Sequence[str] = (),
    seed: int = 0,
    settings: Settings | None = None,
    pictures: Tensor | None = None,
    shown: bool = False,
    after_each: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Ask the paper's questions of a model; write rows, `study.json` and return what it holds.

    A run that was interrupted goes on where it stopped when it is called again with the same folder.

    Args:
        model: a built-in name, a diffusers folder, a hub id, or a pipeline object; unconditional pixel models.
        out: the study's folder.
        quick: the small size: minutes instead of hours.
        only: names of experiments (`EXPERIMENTS`) to run; all if there are none. Rows that the folder already holds of
            others, for the same model and settings, are in the results too.
        seed: of everything drawn.
        settings: sizes of your own, in place of `quick`.
        pictures: (n, c, h, w) in [-1, 1], for the sources that need some; a built-in model knows its own.
        shown: show progress bars on stderr.
        after_each: called after each experiment, when `study.json` holds all that is known.

    Raises PTQ4DMError: an unknown experiment, a model that cannot be opened or is conditional, a folder in use.
    """
    for name in only:
        if name not in EXPERIMENTS:
            raise EvaluationError(f"no experiment {name!r}: accepted are {', '.join(EXPERIMENTS)}")
    sizes = replace(settings or (QUICK if quick else FULL), seed=seed)
    pipeline = open_pipeline(model)
    require_unconditional(pipeline)
    folder = Path(out)
    results: dict[str, Any] = {}
    with exclusive(folder):
        make_folder(folder)
        study = Study(in_float32(pipeline), sizes, folder, shown, pictures)
        started = time.perf_counter()
        for rows in growing(study, [name for name in EXPERIMENTS if name in only or not only]):
            results = results_of(study, rows, time.perf_counter() - started)
            write_json(folder / RESULTS, results)
            if after_each:
                after_each()
    return results


def growing(study: Study, names: Sequence[str]) -> Iterator[list[Row]]:
    """All rows that are known, after each of these experiments, and after distances from the data."""
    store = Store(study.folder)
    cases = {name: EXPERIMENTS[name](study) for name in EXPERIMENTS}
    listed = [each for case in (default_case(study), *chain(*cases.values())) for each in with_baselines(case)]
    every = list({(case.question, case.variant): case for case in listed}.values())
    with progress("study", sum(len(cases[name]) for name in names), study.shown) as advance:
        for name in names:
            for case in cases[name]:
                row_of(study, store, case)
                advance(1)
            yield known(study, store, every)
    rows = known(study, store, every)
    further = distribution_cases(study, every, rows)
    for (question, _), case in further.items():
        if question in (DEFAULT, *names):
            row_of(study, store, case)
    if further:
        yield known(study, store, [*every, *further.values()])


def known(study: Study, store: Store, cases: Sequence[Case]) -> list[Row]:
    """The rows of some cases, of those that have been measured."""
    found = [saved_row(study, store, case) for case in cases]
    return [row for row in found if row is not None]


def with_baselines(case: Case) -> list[Case]:
    """A case after those that it is compared with."""
    return [*with_baselines(case.baseline), case] if case.baseline else [case]


def results_of(study: Study, rows: list[Row], seconds: float) -> dict[str, Any]:
    """What `study.json` holds. seconds: that this run has taken."""
    measured = any("per_picture" in row for row in rows)
    rounded = measured or any(row["question"] == "redundancy" for row in rows)
    pipeline = study.pipeline
    spent = {row["key"]: row["seconds"] + row["shared_seconds"] for row in rows}
    return {
        "format_version": FORMAT_VERSION,
        "model": {"name": pipeline.name, "fingerprint": study.model, "picture_shape": list(pipeline.picture_shape)},
        "num_train_timesteps": pipeline.num_train_timesteps,
        "settings": asdict(study.settings),
        "recipe": study.recipe.to_dict(),
        "left_in_float": study.sensitive["left_in_float"] if rounded else {},
        "float_sheet": study.sheet(study.walk(study.trajectories).pictures) if measured else "",
        "perceptual": {
            "extractor": study.extractor.name if study.extractor else None,
            "why_none": study.sight[1],
            "between_pictures": study.between_pictures if measured else None,
        },
        "rows": rows,
        "verdicts": verdicts(rows),
        "standing": standing(rows),
        "seconds": {"all rows": sum(spent.values()), "this run": seconds},
        "environment": environment(),
    }
