"""What all tests share: a quiet, small torch and a tiny random pipeline."""

# ruff: noqa: E402 (the environment comes first)
import os

os.environ.setdefault("TRITON_INTERPRET", "1")
"""Triton reads this when a kernel is made, its own too: before anything imports it. 0 runs the kernels on a GPU."""

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
