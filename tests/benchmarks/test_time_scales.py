"""The two forms of time-step-dependent scales that are timed beside each other are the same network."""

import bench_time_scales
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from tiny import tiny_unet

import ptq4dm
from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.quantization.quantized_model import example_call


def test_the_lookup_and_a_graph_for_each_band_answer_alike() -> None:
    pipeline = open_pipeline(DDPMPipeline(tiny_unet((8,), size=8, attention=False), DDPMScheduler()))
    recipe = ptq4dm.load_recipe("w8a8-minmax").replace(calibration={"samples": 4, "steps": 3})
    network = ptq4dm.quantize(pipeline.source, recipe).network
    example = example_call(pipeline, 2)
    banded = bench_time_scales.with_bands(network, 3, 1000)
    one, graphs = (OpenVINOBackend().prepare(each, example) for each in (network, banded))
    lookup = bench_time_scales.looked_up(banded, example)
    for t in torch.tensor([900, 500, 100]):
        apart = bench_time_scales.distance(graphs, lookup, example, t)  # single roundings that fall otherwise
        assert apart < 0.01 and 3 * apart < bench_time_scales.distance(graphs, one, example, t)
