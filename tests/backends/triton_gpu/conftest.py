"""What the tests of kernels share."""

import importlib.util
from contextlib import nullcontext

import pytest
from interpreted import language_in_place


@pytest.fixture(scope="module", autouse=True)
def quick_functions():
    with language_in_place() if importlib.util.find_spec("triton") else nullcontext():
        yield
