"""How large a study is: pictures, steps, calibration trajectories. Two sizes, quick and full."""

from dataclasses import dataclass, replace
from typing import Final

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.commands import FIRST_SEED


@dataclass(frozen=True)
class Settings:
    """What every experiment of a study shares.

    seed: of everything drawn. pictures: test pictures of a row. sampler, steps: of the test and of the calibration
    trajectories. kept_calls: of the steps of a test trajectory, how many calls are compared, evenly spaced.
    trajectories: calibration trajectories that are swept, each at every `thinning`-th visit: rare large activations
    come with certain pictures, so that many pictures at some visits tell more than few at all. samples: of calibration
    sets that are collected one by one. batch_size: pictures in a call. bands: bands of time-steps of the sweep.
    distribution: pictures that distances from the data are measured on, 0 for none. quick: fewer variants of each
    question, weights rounded without error feedback.
    """

    seed: int = 0
    pictures: int = 16
    sampler: str = "ddim"
    steps: int = 50
    kept_calls: int = 25
    trajectories: int = 1024
    thinning: int = 4
    samples: int = 1024
    batch_size: int = 16
    bands: int = 64
    distribution: int = 128
    quick: bool = False

    def __post_init__(self):
        if self.pictures < 2:
            raise EvaluationError(f"pictures = {self.pictures}: an interval needs at least 2")
        for name in ("steps", "kept_calls", "trajectories", "thinning", "samples", "batch_size"):
            if getattr(self, name) < 1:
                raise EvaluationError(f"{name} = {getattr(self, name)}: a study needs at least 1")
        if self.batch_size % self.thinning or self.trajectories % self.thinning:
            raise EvaluationError(
                f"thinning = {self.thinning}: batch_size ({self.batch_size}) and trajectories ({self.trajectories}) "
                "should be multiples of it"
            )
        if self.distribution == 1 or self.distribution < 0:
            raise EvaluationError(f"distribution = {self.distribution}: 0 for none, else at least 2 pictures")
        if self.bands < 3:
            raise EvaluationError(f"bands = {self.bands}: both ends and the middle need 3")

    @property
    def test_seeds(self) -> range:
        """The seeds of the test pictures, far from those of calibration; those of two seeds have none in common."""
        first = FIRST_SEED + self.seed * self.pictures
        return range(first, first + self.pictures)


FULL: Final = Settings()
QUICK: Final = replace(
    FULL,
    pictures=8,
    steps=16,
    kept_calls=8,
    trajectories=64,
    thinning=8,
    samples=64,
    batch_size=8,
    distribution=0,
    quick=True,
)
