"""One tiny study that several tests look at, seen through a tiny extractor."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler
from tiny import tiny_unet
from torch import Tensor

from ptq4dm.evaluation.features import Features
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.studies import QUICK, Settings, extractor, run_study
from ptq4dm.studies.study import Study


class Coarse:
    """An extractor whose layers are the pictures and their coarse form: the real one sees 60 pictures a second."""

    name = "coarse"
    standard = False

    def layers(self, pictures: Tensor) -> list[Tensor]:
        return [pictures + 0.1, F.avg_pool2d(pictures, 4) + 0.1]

    def features(self, pictures: Tensor) -> Features:
        pooled = F.avg_pool2d(pictures, 8).flatten(1).numpy()
        return Features(pooled, pooled[:, ::2], pooled)


@pytest.fixture(scope="session", autouse=True)
def coarse() -> Iterator[Coarse]:
    """In place of the offline extractor, in all studies here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "make_extractor", Coarse)
        yield Coarse()


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
