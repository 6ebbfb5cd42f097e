"""What all tests share: a quiet, small torch and a tiny random pipeline."""

import pytest
import torch
from diffusers import DDPMPipeline
from tiny import tiny_pipeline

torch.set_num_threads(1)  # tiny networks: a second thread costs more than it gives


@pytest.fixture(scope="session")
def pipe() -> DDPMPipeline:
    """A tiny random `DDPMPipeline`; do not change it (build your own with `tiny.tiny_pipeline` for that)."""
    return tiny_pipeline()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first (with --no-loadscope-reorder), so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
