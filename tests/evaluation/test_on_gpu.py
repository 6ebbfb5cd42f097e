"""What is said of a GPU, without one: CUDA's own answers are pretended, those of the rest are real."""

import importlib.util
import types

import pytest
import torch
from torch import nn

from ptq4dm.evaluation import hardware, measure
from ptq4dm.evaluation.environment import environment
from ptq4dm.evaluation.measure import network_speed, precision_of, run_notes, speed_tables, watched
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.plan import LayerPlan

CUDA = torch.device("cuda", 1)


class Card:
    """The memory of a GPU: what is allocated, and the most since that was last reset."""

    def __init__(self, allocated):
        self.allocated = self.most = allocated

    def take(self, size):
        self.allocated += size
        self.most = max(self.most, self.allocated)

    def reset(self, device):
        self.most = self.allocated


@pytest.fixture
def card(monkeypatch):
    """A GPU that holds 1000 bytes of others' tensors, on which all networks are."""
    card = Card(1000)
    told = {
        "memory_allocated": lambda device: card.allocated,
        "max_memory_allocated": lambda device: card.most,
        "reset_peak_memory_stats": card.reset,
        "synchronize": lambda device: None,
    }
    for name, answer in told.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(measure, "placement", lambda network: (CUDA, torch.float16))
    return card


class Hungry(nn.Module):
    """A network whose first call, which compiles, takes 500 bytes for a while, and every other 50."""

    def __init__(self, card):
        super().__init__()
        self.card, self.calls = card, 0

    def forward(self, x):
        needed = 50 if self.calls else 500
        self.calls += 1
        self.card.take(needed)
        self.card.take(-needed)
        return x


def test_the_memory_of_a_warm_call_is_its_own_and_its_tensors(card):
    memory = []

    def build():
        card.take(300)
        return Hungry(card)

    module = watched("INT8, triton", build, Call((torch.zeros(1, 2),)), memory, device="cuda:1")
    assert memory == [{"name": "INT8, triton", "peak_bytes": 350, "device": "cuda:1"}] and module.calls == 2
    watched("float, eager", lambda: module, Call((torch.zeros(1, 2),)), memory, held=300, device="cuda:1")
    assert memory[1] == {"name": "float, eager", "peak_bytes": 350, "device": "cuda:1"}  # it was there before
    assert precision_of(module) == "FP16"


def test_the_limit_of_the_processor_is_not_that_of_a_gpu(card):
    plan = [LayerPlan("a", "Conv2d", True, "", 300)]
    speed = network_speed({("triton", "INT8"): nn.Identity()}, Call((torch.zeros(1, 2),)), plan, rounds=1)
    assert speed["predicted_limit"] is None and speed["rows"][0]["engine"] == "triton"


def test_the_gpu_stands_in_the_environment(monkeypatch, tmp_path):
    plain = environment()
    assert ("triton" in plain) == (importlib.util.find_spec("triton") is not None)
    assert not [name for name in plain if name.startswith(("gpu", "cuda", "cudnn"))]
    cards = [types.SimpleNamespace(name=name, major=9, minor=0, total_memory=80 << 30) for name in ("H100", "H200")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: cards[0 if device is None else device.index]
    )
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --query-gpu=driver_version ] && printf "570.86.15\\n570.86.15\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    hardware.gpu_driver.cache_clear()
    found = environment("cuda:1")
    assert {name: found[name] for name in found if name not in plain} == {
        "gpu": "H200", "gpu_capability": "9.0", "gpu_memory_bytes": 80 << 30, "gpu_driver": "570.86.15",
        "cuda": "12.8", "cudnn": 91002,
    }  # fmt: skip
    assert environment()["gpu"] == environment("cpu")["gpu"] == "H100"
    tool.write_text("#!/bin/sh\nexit 9\n")
    hardware.gpu_driver.cache_clear()
    assert "gpu_driver" not in environment() and environment()["gpu"] == "H100"
    hardware.gpu_driver.cache_clear()


def test_ratios_to_eager_are_to_it_in_whichever_type_it_ran():
    times = {("eager", "FP16"): [4.0], ("openvino", "FP32"): [8.0], ("triton", "INT8"): [2.0]}
    tables = speed_tables(times, 1)
    assert [row["ratio_to_eager"] for row in tables["rows"]] == [1.0, 0.5, 2.0]
    names = {ratio["name"]: (ratio["precision"], ratio["value"]) for ratio in tables["ratios"]}
    assert names == {"against diffusers eager in FP16": ("FP16", 2.0), "against FP32 in openvino": ("FP32", 4.0)}
    assert [ratio["fastest_float"] for ratio in tables["ratios"]] == [True, False]


def test_notes_say_what_ran_where():
    assert run_notes("cpu", "openvino", None) == [] == run_notes("cpu", "simulated", torch.float32)
    assert run_notes("cuda", "triton", torch.float16) == [
        "PyTorch (the float network, the simulated one, triton) ran on cuda, the engines on the CPU",
        "The INT8 network and the float one that it is timed beside computed in float16",
    ]
    assert run_notes("cuda", "", None) == [
        "PyTorch (the float network, the simulated one) ran on cuda, the engines on the CPU"
    ]
