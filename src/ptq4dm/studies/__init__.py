"""The paper's questions as experiments on any unconditional model: rows with intervals, a verdict, a page.

`run_study(model, out)` is the whole; `EXPERIMENTS` names its parts.
"""

from ptq4dm.studies.experiments import EXPERIMENTS
from ptq4dm.studies.run import run_study
from ptq4dm.studies.settings import FULL, QUICK, Settings

__all__ = ["EXPERIMENTS", "FULL", "QUICK", "Settings", "run_study"]
