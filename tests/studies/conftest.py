"""One tiny study that several tests look at."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline, DDPMScheduler
from tiny import tiny_unet

from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.studies import QUICK, Settings, run_study
from ptq4dm.studies.study import Study


@pytest.fixture(scope="session")
def pipe() -> DDPMPipeline:
    """One level, attention in the middle only: a study rounds the network fifty times over. Do not change it."""
    pipeline = DDPMPipeline(tiny_unet((8,), attention=False), DDPMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def sizes() -> Settings:
    return replace(QUICK, pictures=3, steps=4, kept_calls=3, trajectories=3, thinning=1, samples=6, batch_size=2)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="session", autouse=True)
def two_samplers() -> Iterator[None]:
    """Fewer samplers than a quick study asks, in few steps; the study's own among them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptq4dm.studies.samplers.QUICK", (("ddim", 4), ("unipc", 3)))
        yield


@pytest.fixture(scope="session")
def results(pipe: DDPMPipeline, sizes: Settings, folder: Path) -> dict[str, Any]:
    """All experiments."""
    return run_study(pipe, folder, settings=sizes)


@pytest.fixture(scope="session")
def study(pipe: DDPMPipeline, sizes: Settings, folder: Path, results: dict[str, Any]) -> Study:
    """The same study, for its parts."""
    return Study(open_pipeline(pipe), sizes, folder)
