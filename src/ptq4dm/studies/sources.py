"""Which calibration inputs: the denoising trajectory, raw pictures, training-style noised pictures, pure noise.

All are collected in the same way and number, with the default law of time-steps; they differ in where x_t comes from.
The others are compared with the denoising trajectory, not with the default recipe's row, which has other samples of it.
"""

import functools
from collections.abc import Sequence
from typing import Final

from ptq4dm.calibration.sources import NEEDS_PICTURES
from ptq4dm.files import fingerprint
from ptq4dm.studies.cases import Case, set_case
from ptq4dm.studies.samples import first_of
from ptq4dm.studies.study import Study
from ptq4dm.zoo import zoo

DENOISING: Final = "denoising"
NAMES: Final = {
    DENOISING: "denoising trajectory",
    "pictures": "raw pictures",
    "diffused": "training-style noised pictures",
    "noise": "pure noise",
}


def sources(study: Study) -> Sequence[Case]:
    """One case a source; one that needs pictures says so where there are none."""
    first = denoising_case(study)
    return [first, *(one_source(study, source, first) for source in NAMES if source != DENOISING)]


def denoising_case(study: Study) -> Case:
    """The case of the denoising trajectory."""
    most = study.settings.samples
    return first_of(study, "sources", most, most, study.settings.seed, NAMES[DENOISING])


def one_source(study: Study, source: str, first: Case) -> Case:
    """The case of another source, compared with the first."""
    needed = source in NEEDS_PICTURES
    if needed and study.pictures is None and study.pipeline.name not in zoo.MODELS:
        reason = "the model carries no pictures: give some (--pictures FOLDER)"
        return Case("sources", NAMES[source], {"source": source}, lambda: {"not_applicable": reason})
    own = study.pictures if needed else None
    how = {"collected": source, "pictures": None if own is None else fingerprint({"pictures": own})}
    collected = functools.partial(study.collected, source=source)
    return set_case(study, "sources", NAMES[source], how, collected, baseline=first)
