"""One tiny study that several tests look at."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline

from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.studies import QUICK, Settings, run_study
from ptq4dm.studies.study import Study


@pytest.fixture(scope="session")
def sizes() -> Settings:
    return replace(QUICK, pictures=3, steps=4, kept_calls=3, trajectories=3, thinning=1, samples=6, batch_size=2)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="session")
def results(pipe: DDPMPipeline, sizes: Settings, folder: Path) -> dict[str, Any]:
    """All experiments but `samplers`, which takes long."""
    names = ["drift", "operations", "sources", "timesteps", "metrics", "bits", "samples"]
    return run_study(pipe, folder, settings=sizes, only=names)


@pytest.fixture(scope="session")
def study(pipe: DDPMPipeline, sizes: Settings, folder: Path, results: dict[str, Any]) -> Study:
    """The same study, for its parts."""
    return Study(open_pipeline(pipe), sizes, folder)
