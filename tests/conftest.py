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


LONGEST = ("test_readme_commands.py", "test_quantized.py", "test_backends.py", "test_openvino_exact.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first (with --no-loadscope-reorder), so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
