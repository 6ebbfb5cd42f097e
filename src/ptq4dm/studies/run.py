"""Run a study: every case of the chosen experiments, each row saved as soon as it is known; then verdict and page."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from diffusers import DiffusionPipeline
from torch import Tensor

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.environment import environment
from ptq4dm.files import exclusive, make_folder, write_json
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline, require_unconditional
from ptq4dm.progress import progress
from ptq4dm.studies.cases import Case, default_case, row_of
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
) -> dict[str, Any]:
    """Ask the paper's questions of a model; write rows, `study.json` and return what it holds.

    A run that was interrupted goes on where it stopped when it is called again with the same folder.

    Args:
        model: a built-in name, a diffusers folder, a hub id, or a pipeline object; unconditional pixel models.
        out: the study's folder.
        quick: the small size: minutes instead of hours.
        only: names of experiments (`EXPERIMENTS`); all if there are none.
        seed: of everything drawn.
        settings: sizes of your own, in place of `quick`.
        pictures: (n, c, h, w) in [-1, 1], for the sources that need some; a built-in model knows its own.
        shown: show progress bars on stderr.

    Raises PTQ4DMError: an unknown experiment, a model that cannot be opened or is conditional, a folder in use.
    """
    for name in only:
        if name not in EXPERIMENTS:
            raise EvaluationError(f"no experiment {name!r}: accepted are {', '.join(EXPERIMENTS)}")
    sizes = replace(settings or (QUICK if quick else FULL), seed=seed)
    pipeline = open_pipeline(model)
    require_unconditional(pipeline)
    folder = Path(out)
    with exclusive(folder):
        make_folder(folder)
        study = Study(in_float32(pipeline), sizes, folder, shown, pictures)
        started = time.perf_counter()
        rows = all_rows(study, [name for name in EXPERIMENTS if name in only or not only])
        measured = any("per_picture" in row for row in rows)
        rounded = measured or any(row["question"] == "redundancy" for row in rows)
        results = {
            "format_version": FORMAT_VERSION,
            "model": {"name": pipeline.name, "fingerprint": study.model, "picture_shape": list(pipeline.picture_shape)},
            "num_train_timesteps": pipeline.num_train_timesteps,
            "settings": asdict(sizes),
            "recipe": study.recipe.to_dict(),
            "left_in_float": study.sensitive["left_in_float"] if rounded else {},
            "float_sheet": study.sheet(study.walk(study.trajectories).pictures) if measured else "",
            "rows": rows,
            "verdicts": verdicts(rows),
            "standing": standing(rows),
            "seconds": {
                "all rows": sum({row["key"]: row["seconds"] for row in rows}.values()),
                "this run": time.perf_counter() - started,
            },
            "environment": environment(),
        }
        write_json(folder / RESULTS, results)
    return results


def all_rows(study: Study, names: Sequence[str]) -> list[Row]:
    """The rows of the experiments, the default recipe's first."""
    store = Store(study.folder)
    cases = [case for name in names for case in EXPERIMENTS[name](study)]
    if any(case.baseline for case in cases):
        cases.insert(0, default_case(study))
    found: dict[tuple[str, str], Row] = {}
    with progress("study", len(cases), study.shown) as advance:
        for case in cases:
            for each in with_baselines(case):
                found[each.question, each.variant] = row_of(study, store, each)
            advance(1)
    rows = list(found.values())
    known = [each for case in cases for each in with_baselines(case)]
    return [*rows, *(row_of(study, store, case) for case in distribution_cases(study, known, rows))]


def with_baselines(case: Case) -> list[Case]:
    """A case after those that it is compared with."""
    return [*with_baselines(case.baseline), case] if case.baseline else [case]
