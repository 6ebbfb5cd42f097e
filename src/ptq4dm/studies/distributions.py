"""Distances from the data: the float model, the default recipe, the paper's preset and the extremes of each question.

They need many pictures, hence come last and only where the settings ask for some. Each row compares what one case draws
with what the float model draws from the same seeds under the same sampler (`evaluation.distribution`): paired
bootstrap, n stated.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from ptq4dm.evaluation.distribution import distribution
from ptq4dm.evaluation.drawing import draw_chunks
from ptq4dm.files import fingerprint
from ptq4dm.studies.cases import DEFAULT, Case, Painter, key_of, painter
from ptq4dm.studies.float_walk import Trajectories
from ptq4dm.studies.readings import extreme_of
from ptq4dm.studies.store import Row
from ptq4dm.studies.study import Study
from ptq4dm.studies.variants import PRESET
from ptq4dm.zoo import zoo

QUESTION: Final = "distribution"
CHUNK: Final = 32
"""Pictures drawn between two saves."""
NO_DATA: Final = "the model carries no pictures: give some (--pictures FOLDER)"


def distribution_cases(study: Study, cases: Sequence[Case], rows: Sequence[Row]) -> dict[tuple[str, str], Case]:
    """By question and variant: a case for the default recipe and for the best and the worst rows of each question; none
    where the settings ask for no pictures."""
    if not study.settings.distribution:
        return {}
    found = {(case.question, case.variant): case for case in cases}
    chosen = extremes_of(rows)
    reference = reference_pictures(study)
    return {key: distribution_case(study, found[key], reference) for key in chosen}


def extremes_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The default's row and that of the paper's preset; by question the rows with the least and the largest error of a
    call, and of those that change no call the ones with the best and the worst pictures; each once. Rows of fewer
    pictures than the default's are for paired measures only."""
    default = next((row for row in rows if row["question"] == DEFAULT), None)
    if default is None:
        return []
    preset = [row for row in rows if (row["question"], row["variant"]) == ("operations", PRESET)]
    seen = {default["key"], *(row["key"] for row in preset)}
    chosen = [(DEFAULT, DEFAULT), *(("operations", PRESET) for _ in preset)]
    for question in dict.fromkeys(row["question"] for row in rows):
        own = [row for row in rows if row["question"] == question and row.get("n") == default["n"]]
        for called in (True, False):
            group = [row for row in own if ("relative_l2" in row["per_picture"]) is called]
            for worst in (False, True):
                row = extreme_of(group, worst)
                if row and row["key"] not in seen:
                    seen.add(row["key"])
                    chosen.append((question, row["variant"]))
    return chosen


def distribution_case(study: Study, case: Case, reference: Tensor | None) -> Case:
    """The distances of what one case draws, from the reference pictures; not applicable where there are none."""
    name = DEFAULT if case.question == DEFAULT else f"{case.question}: {case.variant}"
    asked, paint, own = case.trajectories, case.painter, study.pictures
    assert asked and paint  # only rows with pictures are chosen
    extractor, why_none = study.sight
    identity = {
        "row": key_of(study, case),
        "pictures": study.settings.distribution,
        "data": None if own is None else fingerprint({"pictures": own}),
        "extractor": extractor.name if extractor else None,
    }
    if reference is None or extractor is None:
        reason = NO_DATA if reference is None else why_none
        return Case(QUESTION, name, identity, lambda: {"not_applicable": reason})

    def plain() -> Tensor:
        facts = {"model": study.model, "batch_size": asked.batch_size}
        return drawn(study, lambda: painter(study, study.pipeline.denoiser, asked), asked, facts)

    def run() -> dict[str, Any]:
        other = drawn(study, paint, asked, {"row": identity["row"]})
        return {"facts": distribution(extractor, plain(), other, reference, "pictures", shown=study.shown)}

    return Case(QUESTION, name, identity, run, shared=plain)


def reference_pictures(study: Study) -> Tensor | None:
    """The data, (n, c, h, w) in [0, 1]; None if there is none."""
    own = study.pictures
    if own is None and study.pipeline.name in zoo.MODELS:
        own = zoo.pictures(study.pipeline.name)
    return None if own is None else (own / 2 + 0.5).clamp(0, 1)


def drawn(study: Study, make: Callable[[], Painter], asked: Trajectories, facts: Mapping[str, Any]) -> Tensor:
    """Pictures of as many seeds as the settings ask for, drawn as the test pictures `asked` are, chunk by chunk, and
    kept in the study's folder. facts: what draws them, JSON data."""
    first, number = study.settings.test_seeds[0], study.settings.distribution
    key = fingerprint({}, dict(facts), asked.sampler, asked.steps, first, number)
    made = functools.cache(make)  # where all are drawn, no network is made

    def draw(seeds: Sequence[int]) -> Tensor:
        return made()(seeds, False)

    def key_of_chunk(seeds: Sequence[int]) -> str:
        return fingerprint({}, key, list(seeds))

    folder = study.folder / "distribution" / key
    return draw_chunks(draw, key_of_chunk, range(first, first + number), folder, study.shown, CHUNK)
