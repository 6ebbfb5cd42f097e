"""Where a result was measured: processor, GPU, versions, date. Kept beside every figure."""

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ptq4dm.evaluation.hardware import gpu_facts, this_processor

ENGINES = ("openvino", "onnxruntime", "onnx", "triton")
PACKAGES = ("ptq4dm", "torch", "diffusers", *ENGINES, "numpy", "scipy", "safetensors")


def environment(device: str | None = None) -> dict[str, Any]:
    """As flat JSON data: processor, cores, threads, INT8 instructions, GPU, system, versions, date.

    device: the torch device of the run, where there are several GPUs.
    """
    processor = this_processor()
    facts = {
        "processor": processor.name,
        "cores": processor.cores,
        "threads": torch.get_num_threads(),
        "int8_instructions": processor.instructions,
        "processor_flags": " ".join(processor.flags),
        **gpu_facts(device),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    installed = {name: installed_version(name) for name in PACKAGES}
    return {
        **facts,
        **{name: value for name, value in installed.items() if value},
        "date": datetime.now(UTC).date().isoformat(),
    }


def installed_version(name: str) -> str:
    """The version of an installed package, or an empty string."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
