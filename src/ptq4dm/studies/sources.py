"""Which calibration inputs: the denoising trajectory, raw pictures, training-style noised pictures, pure noise.

All are collected in the same way and number, with the default law of time-steps; they differ in where x_t comes from.
"""

from collections.abc import Sequence
from typing import Final

from ptq4dm.calibration.sources import NEEDS_PICTURES
from ptq4dm.files import fingerprint
from ptq4dm.studies.cases import Case, set_case
from ptq4dm.studies.samples import first_of
from ptq4dm.studies.study import Study
from ptq4dm.zoo import zoo

NAMES: Final = {
    "denoising": "denoising trajectory",
    "pictures": "raw pictures",
    "diffused": "training-style noised pictures",
    "noise": "pure noise",
}


def sources(study: Study) -> Sequence[Case]:
    """One case a source; one that needs pictures says so where there are none."""
    return [one_source(study, source) for source in NAMES]


def one_source(study: Study, source: str) -> Case:
    """The case of one source."""
    needed = source in NEEDS_PICTURES
    if needed and study.pictures is None and study.pipeline.name not in zoo.MODELS:
        reason = "the model carries no pictures: give some (--pictures FOLDER)"
        return Case("sources", NAMES[source], {"source": source}, lambda: {"not_applicable": reason})
    if source == "denoising":
        most = study.settings.samples
        return first_of(study, "sources", most, most, study.settings.seed, NAMES[source])
    own = study.pictures if needed else None
    how = {"collected": source, "pictures": None if own is None else fingerprint({"pictures": own})}
    return set_case(study, "sources", NAMES[source], how, lambda: study.collected(source=source))
