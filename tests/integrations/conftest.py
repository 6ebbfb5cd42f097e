"""Artifacts that diffusers loads, one for all tests."""

import pytest
from integrations_common import QUICK
from tiny import tiny_pipeline

import ptq4dm
from ptq4dm.integrations import quantizer


@pytest.fixture(autouse=True)
def said_already(monkeypatch):
    """The note on the simulated backend was given (pytest makes errors of warnings)."""
    monkeypatch.setattr(quantizer, "told", {"simulated"})


@pytest.fixture(scope="session")
def model():
    """A tiny DDPMPipeline, quantized."""
    return ptq4dm.quantize(tiny_pipeline(), QUICK)


@pytest.fixture(scope="session")
def folder(model, tmp_path_factory):
    """Its artifact; do not change it."""
    return model.save(tmp_path_factory.mktemp("artifact") / "int8")


@pytest.fixture(scope="session")
def qdq_folder(tmp_path_factory):
    """One of the arithmetic `qdq`."""
    return ptq4dm.quantize(tiny_pipeline(), QUICK.replace(arithmetic="qdq")).save(tmp_path_factory.mktemp("a") / "qdq")
