"""Can kernels run here? Asked without importing Triton, which takes a second."""

import os
from importlib.util import find_spec
from typing import Final

import torch

INSTALL: Final = "triton is not installed: pip install 'ptq4dm[triton]'"
OLDEST: Final = (8, 0)
"""The compute capability from which tensor cores multiply signed bytes as the kernels need it (Ampere)."""
ALTERNATIVES: Final = "use backend='openvino' on the CPU, or backend='simulated' anywhere"


def why_unavailable() -> str | None:
    """None where the kernels can run, else the line that says what is missing and what to use instead."""
    if find_spec("triton") is None:
        return INSTALL
    if interpreted():
        return None
    if torch.version.hip:
        return f"the triton backend is written for NVIDIA GPUs, and this torch is built for AMD's: {ALTERNATIVES}"
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a build without CUDA"
        return (
            f"the triton backend needs an NVIDIA GPU, and torch sees none (it {built}): {ALTERNATIVES}; with "
            "TRITON_INTERPRET=1 set before Python starts, the kernels run on the CPU, slowly, to be checked"
        )
    return why_too_old(torch.cuda.get_device_capability(), torch.cuda.get_device_name())


def why_not_there(device: torch.device) -> str | None:
    """Why a network's own GPU cannot be used, which need not be the current one; None if it can, or is none."""
    if device.type != "cuda":
        return None
    return why_too_old(torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device))


def why_too_old(capability: tuple[int, int], name: str) -> str | None:
    """Why a GPU of that compute capability cannot be used; None if it can."""
    if capability >= OLDEST:
        return None
    has, needed = (".".join(map(str, numbers)) for numbers in (capability, OLDEST))
    return f"{name} has compute capability {has}, and the INT8 kernels need {needed} (Ampere) or later: {ALTERNATIVES}"


def interpreted() -> bool:
    """Whether Triton's interpreter was asked for."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
