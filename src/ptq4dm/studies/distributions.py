"""Distances from the data for the float model, the default recipe and the extremes of each question.

They need many pictures, hence come last and only where the settings ask for some. Each row compares one network with
the float model at equal seeds (`evaluation.distribution`): paired bootstrap, n stated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ptq4dm.errors import MissingDependencyError
from ptq4dm.evaluation.distribution import distribution
from ptq4dm.evaluation.drawing import draw_resumable
from ptq4dm.evaluation.features import make_extractor
from ptq4dm.files import fingerprint
from ptq4dm.studies.cases import DEFAULT, Case
from ptq4dm.studies.sentences import extreme_of
from ptq4dm.studies.store import Row, row_key
from ptq4dm.studies.study import Study
from ptq4dm.zoo import zoo

QUESTION = "distribution"
CHUNK = 32
"""Pictures drawn between two saves."""


def distribution_cases(study: Study, cases: Sequence[Case], rows: Sequence[Row]) -> list[Case]:
    """A case for the default recipe and for the best and the worst row of each question; none without pictures."""
    if not study.settings.distribution:
        return []
    found = {(case.question, case.variant): case for case in cases}
    chosen = [key for key in found if key[0] == DEFAULT] + extremes_of(rows, found)
    return [distribution_case(study, found[key]) for key in chosen]


def extremes_of(rows: Sequence[Row], cases: Mapping[tuple[str, str], Case]) -> list[tuple[str, str]]:
    """The rows with the least and the largest error of a call, by question, of those whose network can be built
    again and that are drawn as the default's pictures are; each network once."""
    default = next((row for row in rows if row["question"] == DEFAULT), None)
    if default is None:
        return []
    seen, chosen = {default["key"]}, []
    for question in dict.fromkeys(row["question"] for row in rows):
        own = [
            row
            for row in rows
            if row["question"] == question
            and row.get("sampler") == default["sampler"]
            and row.get("steps") == default["steps"]
            and "relative_l2" in row.get("per_picture", {})
            and cases[question, row["variant"]].build
        ]
        for worst in (False, True):
            row = extreme_of(own, worst)
            if row and row["key"] not in seen:
                seen.add(row["key"])
                chosen.append((question, row["variant"]))
    return chosen


def distribution_case(study: Study, case: Case) -> Case:
    """The distances of one case's network."""
    name = DEFAULT if case.question == DEFAULT else f"{case.question}: {case.variant}"
    own = study.pictures
    data = None if own is None else fingerprint({"pictures": own})
    identity = {**case.identity, "pictures": study.settings.distribution, "data": data}

    def run() -> dict[str, Any]:
        assert case.build  # only such cases are chosen
        return distances(study, case.build, identity)

    return Case(QUESTION, name, identity, run)


def distances(study: Study, build: Any, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of one network, or why there are none."""
    reference = reference_pictures(study)
    if reference is None:
        return {"not_applicable": "the model carries no pictures: give some (--pictures FOLDER)"}
    try:
        extractor = make_extractor()
    except MissingDependencyError as error:
        return {"not_applicable": str(error)}
    plain = drawn(study, study.pipeline.denoiser, {"float": study.model})
    other = drawn(study, build(), dict(identity))
    return {"facts": distribution(extractor, plain, other, reference, "pictures", shown=study.shown)}


def reference_pictures(study: Study) -> Tensor | None:
    """The data, (n, c, h, w) in [0, 1]; None if there is none."""
    own = study.pictures
    if own is None and study.pipeline.name in zoo.MODELS:
        own = zoo.pictures(study.pipeline.name)
    return None if own is None else (own / 2 + 0.5).clamp(0, 1)


def drawn(study: Study, network: nn.Module, identity: dict[str, Any]) -> Tensor:
    """Pictures of a network, chunk by chunk, kept in the study's folder."""
    own = study.settings
    identity = {"model": study.model, "settings": own.seed, **identity}
    first = own.test_seeds[0]
    seeds = range(first, first + own.distribution)
    folder = study.folder / "distribution" / row_key(identity)
    return draw_resumable(
        network, study.pipeline, own.sampler, own.steps, seeds, own.batch_size, folder, identity, study.shown, CHUNK
    )
