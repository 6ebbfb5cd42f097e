"""The names of variants that answers and verdicts look rows up by."""

from typing import Final

PAPER: Final = "all that the paper quantizes"
PRESET: Final = "w8a8-paper"
STEP: Final = "x_{t-1}"
"""Of the question `operations`: the paper's operations at once, its recipe, and what a step of a sampler gives."""
AS_MANY: Final = "NDTC, as many samples as at one time-step"
UNIFORM_AS_MANY: Final = "uniform, as many samples as at one time-step"
"""Of `timesteps`: what calibrations at one time-step are compared with."""
DEFAULT_CALIBRATION: Final = "default calibration"
OTHER: Final = "calibrated on this sampler"
NAIVE: Final = "calibrated at t = 0 alone"
"""How the variants of `samplers` end: the first is what the others are compared with."""
ONE_BAND: Final = "one band"
"""How the variants of `time_scales` end that others are compared with."""
FEW_BANDS: Final = "as few as bring"
"""In those whose number of bands is found."""
