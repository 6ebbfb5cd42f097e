"""How few calibration samples are enough: the first n of one collected set, for n in powers of two.

They are compared with the largest n, whose own row is compared with the default recipe's. Rows of the same n from
another seed tell how much the draw of the samples itself changes, which intervals over test pictures cannot tell.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.studies.cases import Case, set_case
from ptq4dm.studies.study import Study

FEWEST: Final = 4
FEW: Final = 256
"""At most how many samples a set has that is collected for one row."""
REPEATED: Final = 32
"""The n that is drawn again."""
REPEATS: Final = 2


def samples(study: Study) -> Sequence[Case]:
    """A case for each n, and a few of other seeds."""
    own = study.settings
    most, few, stride = own.samples, min(REPEATED, own.samples), 2 if own.quick else 1
    numbers = [n for n in (FEWEST << index for index in range(0, 16, stride)) if n < most]
    last = first_of(study, "samples", most, most, own.seed, f"{most}")
    cases = [first_of(study, "samples", n, most, own.seed, f"{n}", last) for n in numbers] + [last]
    for index in range(0 if own.quick else REPEATS):
        cases.append(first_of(study, "samples", few, few, own.seed + 1 + index, f"{few}, draw {index + 2}", last))
    return cases


def few_of(study: Study, question: str, variant: str) -> Case:
    """The default law on few samples, which rows of as few are compared with."""
    return set_case(study, question, variant, few_identity(study), lambda: few_set(study))


def few_identity(study: Study) -> dict[str, int]:
    """What the set of few samples depends on."""
    return identity_of(few_samples(study), study.settings.samples, study.settings.seed)


def few_set(study: Study) -> CalibrationSet:
    """The first few of the calibration samples."""
    return first_set(study, few_samples(study), study.settings.samples, study.settings.seed)


def few_samples(study: Study) -> int:
    """How many samples a set has that is collected for one row."""
    return min(FEW, study.settings.samples)


def first_of(
    study: Study, question: str, n: int, collected: int, seed: int, variant: str, baseline: Case | None = None
) -> Case:
    """The first n samples of a set of `collected` of a seed."""
    how = identity_of(n, collected, seed)
    return set_case(study, question, variant, how, lambda: first_set(study, n, collected, seed), baseline=baseline)


def identity_of(n: int, collected: int, seed: int) -> dict[str, int]:
    """What the first n samples of a set depend on."""
    return {"samples": n, "of": collected, "seed": seed}


def first_set(study: Study, n: int, collected: int, seed: int) -> CalibrationSet:
    """The first n samples of a set of `collected` of a seed."""
    whole = study.collected(samples=collected, seed=seed)
    return replace(
        whole,
        x_t=whole.x_t[:n],
        timesteps=whole.timesteps[:n],
        drawn=whole.drawn[:n],
        facts={**whole.facts, "samples": n},
    )
