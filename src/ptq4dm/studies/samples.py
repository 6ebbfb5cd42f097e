"""How few calibration samples are enough: the first n of one collected set, for n in powers of two.

Rows of the same n from another seed tell how much the draw of the samples itself changes, which paired intervals over
test pictures cannot tell.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.studies.cases import Case, set_case
from ptq4dm.studies.study import Study

FEWEST: Final = 4
REPEATED: Final = 32
"""The n that is drawn again."""
REPEATS: Final = 2


def samples(study: Study) -> Sequence[Case]:
    """A case for each n, and a few of other seeds."""
    own = study.settings
    most, few, stride = own.samples, min(REPEATED, own.samples), 2 if own.quick else 1
    numbers = [n for n in (FEWEST << index for index in range(0, 16, stride)) if n < most]
    cases = [first_of(study, "samples", n, most, own.seed, f"{n}") for n in (*numbers, most)]
    for index in range(0 if own.quick else REPEATS):
        cases.append(first_of(study, "samples", few, few, own.seed + 1 + index, f"{few}, draw {index + 2}"))
    return cases


def first_of(study: Study, question: str, n: int, collected: int, seed: int, variant: str) -> Case:
    """The first n samples of a set of `collected` of a seed."""
    how = {"samples": n, "of": collected, "seed": seed}
    return set_case(
        study,
        question,
        variant,
        how,
        lambda: shortened(study.collected(samples=collected, seed=seed), n),
    )


def shortened(whole: CalibrationSet, n: int) -> CalibrationSet:
    """The first n samples of a set."""
    return replace(
        whole,
        x_t=whole.x_t[:n],
        timesteps=whole.timesteps[:n],
        drawn=whole.drawn[:n],
        facts={**whole.facts, "samples": n},
    )
