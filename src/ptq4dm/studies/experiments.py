"""The experiments by name: functions `(study) -> cases`, as samplers and metrics are functions in plain dicts."""

from typing import Final

from ptq4dm.studies.bits import bits
from ptq4dm.studies.cases import Experiment
from ptq4dm.studies.drift import drift
from ptq4dm.studies.metrics import metrics
from ptq4dm.studies.operations import operations
from ptq4dm.studies.samplers import samplers
from ptq4dm.studies.samples import samples
from ptq4dm.studies.sources import sources
from ptq4dm.studies.timesteps import timesteps

EXPERIMENTS: Final[dict[str, Experiment]] = {
    "drift": drift,
    "operations": operations,
    "sources": sources,
    "timesteps": timesteps,
    "metrics": metrics,
    "bits": bits,
    "samples": samples,
    "samplers": samplers,
}
