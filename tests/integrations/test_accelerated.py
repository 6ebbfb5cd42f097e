"""ptq4dm.accelerate: real INT8 in a pipeline that diffusers loaded, against ptq4dm.load on the same engine."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from integrations_common import drawn
from tiny import tiny_pipeline

import ptq4dm
from ptq4dm.backends.stand_in import stand_in, stood_for
from ptq4dm.errors import BackendError, ModelError
from ptq4dm.integrations import accelerated
from ptq4dm.quantization.float_types import castable


def test_in_place_as_ptq4dm_load_draws_and_back_again(folder, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    before = drawn(pipeline)
    assert ptq4dm.accelerate(pipeline, "openvino") is pipeline
    assert type(pipeline.unet) is UNet2DModel and pipeline.unet.ptq4dm_backend == "openvino"
    fast = drawn(pipeline)
    assert not np.array_equal(fast, before)  # it is another engine
    assert np.array_equal(fast, drawn(ptq4dm.load(folder).to_pipeline("openvino")))
    pipeline.save_pretrained(tmp_path / "again")
    assert np.array_equal(drawn(DiffusionPipeline.from_pretrained(tmp_path / "again")), before)
    assert np.array_equal(drawn(ptq4dm.accelerate(pipeline, "simulated")), before)


def test_what_cannot_be_accelerated(folder, qdq_folder):
    with pytest.raises(ModelError, match="no part of this DDPMPipeline is quantized by ptq4dm"):
        ptq4dm.accelerate(tiny_pipeline())
    with pytest.raises(ModelError, match="a UNet2DModel is no pipeline: give the DiffusionPipeline that calls"):
        ptq4dm.accelerate(UNet2DModel.from_pretrained(folder, subfolder="unet"))
    with pytest.raises(BackendError, match="no backend 'tpu'"):
        ptq4dm.accelerate(DiffusionPipeline.from_pretrained(folder), "tpu")
    with pytest.raises(BackendError, match="computes the arithmetic 'qdq', this artifact is 'float-out'"):
        ptq4dm.accelerate(DiffusionPipeline.from_pretrained(folder), "onnxruntime")
    with pytest.raises(BackendError, match="computes the arithmetic 'float-out', this artifact is 'qdq'"):
        ptq4dm.accelerate(DiffusionPipeline.from_pretrained(qdq_folder), "openvino")
    half = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    first = next(tensor for _, tensor in castable(half.unet))
    for kept in (first, first.float()):  # diffusers keeps some tensors in float32 (of Wan)
        first.data = kept
        with pytest.raises(ModelError, match=r"unet is on cpu in torch\.float16, and INT8 engines compute on the CPU"):
            ptq4dm.accelerate(half)


def stood_in(network, example, backend, arithmetic):
    """What any engine gives, without one."""
    return stand_in(network, lambda *args, **kwargs: (backend, arithmetic, example, args))


def test_a_pipeline_within_a_pipeline_and_one_accelerated_before(folder, monkeypatch):
    monkeypatch.setattr(accelerated, "prepare", stood_in)
    inner = DiffusionPipeline.from_pretrained(folder)
    plain = inner.unet

    class Outer(diffusers.DDPMPipeline):
        """Combined of another one, with which it shares the denoiser."""

        def __init__(self, unet, scheduler):
            super().__init__(unet, scheduler)
            self.inner = inner

    outer = ptq4dm.accelerate(Outer(inner.unet, inner.scheduler), "any")
    assert outer.unet is inner.unet is not plain
    backend, arithmetic, example, args = outer.unet("x")
    assert (backend, arithmetic, args) == ("any", "float-out", ("x",))
    assert example.args[0].shape == (2, 3, 16, 16)  # an unconditional model's inputs are known
    first = outer.unet
    ptq4dm.accelerate(outer, "another")
    assert outer.unet("y")[0] == "another" and first("y")[0] == "any"
    assert "forward" not in vars(stood_for(outer.unet))
