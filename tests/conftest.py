"""What all tests share: a quiet, small torch, a tiny random pipeline, and how they are dealt out to workers."""

# ruff: noqa: E402 (the environment comes first)
import gc
import os
import zlib
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")
"""Triton reads this when a kernel is made, its own too: before anything imports it."""

import hypothesis
import pytest
import torch
from diffusers import DDPMPipeline
from sharing import turn_of, unit_of
from tiny import tiny_pipeline

hypothesis.settings.register_profile("unhurried", deadline=None)  # how long an example takes says nothing of it
hypothesis.settings.load_profile("unhurried")
torch.set_num_threads(1)  # tiny networks: a second thread costs more than it gives


@pytest.fixture(scope="session")
def pipe() -> DDPMPipeline:
    """A tiny random `DDPMPipeline`; do not change it (build your own with `tiny.tiny_pipeline` for that)."""
    return tiny_pipeline()


@pytest.fixture(scope="session", autouse=True)
def fewer_timesteps() -> Iterator[None]:
    """Layers of time are seen at 32 time-steps, not at 256: half of what quantizing a tiny network takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptq4dm.calibration.calls.ALONG", 32)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Each fixture draws the same numbers whoever asks for it first: workers share tests out by their speed."""
    torch.manual_seed(zlib.crc32(f"{fixturedef.baseid}::{fixturedef.argname}".encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Each test draws the same numbers in every run, alone or among others."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest units first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: turn_of(item.nodeid))


def pytest_collection_finish() -> None:
    """What is imported by now stays: a search for garbage, and a study makes one a row, passes over all of it."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Units by shared fixtures (`sharing.unit_of`), in the order of collection, whatever `--dist` says."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False
    return ByFixtures(config, log)
