"""Facts of the processor and the GPU, and how much faster INT8 multiply-adds can be on it than FP32 ones."""

import ctypes
import gc
import os
import platform
import re
import resource
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

INSTRUCTIONS: Final = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
ISA_CAPS: Final = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}
"""Values of ONEDNN_MAX_CPU_ISA below VNNI: oneDNN (in OpenVINO and torch) then leaves VNNI and AMX unused."""


@dataclass(frozen=True)
class Processor:
    """Model name, usable cores, the INT8-relevant instruction flags, and the oneDNN cap if one is set."""

    name: str
    cores: int
    flags: tuple[str, ...]
    isa_cap: str

    @property
    def instructions(self) -> str:
        """In words: what INT8 products run on."""
        usable = usable_flags(self.flags, self.isa_cap)
        best = next((flag for flag in ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2") if flag in usable), "")
        words = {
            "amx_int8": "AMX INT8",
            "avx512_vnni": "AVX-512 with VNNI",
            "avx_vnni": "AVX2 with VNNI",
            "avx512f": "AVX-512, no VNNI",
            "avx2": "AVX2, no VNNI",
            "": "unknown",
        }[best]
        return f"{words} (limited by ONEDNN_MAX_CPU_ISA={self.isa_cap})" if self.isa_cap else words

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            **vars(self),
            "flags": list(self.flags),
            "instructions": self.instructions,
            "int8_ratio": self.int8_ratio,
        }

    @property
    def int8_ratio(self) -> float | None:
        """INT8 over FP32 multiply-adds a cycle; None where it is not known. See `int8_over_fp32`."""
        return int8_over_fp32(usable_flags(self.flags, self.isa_cap))


def this_processor() -> Processor:
    """Read the facts of the processor that runs this."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    return Processor(
        name=cpuinfo_field(text, "model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        flags=tuple(flag for flag in INSTRUCTIONS if flag in cpuinfo_flags(text)),
        isa_cap=os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
    )


def peak_memory() -> int:
    """The largest resident memory this process has had, in bytes (since the last `reset_peak_memory`, on Linux)."""
    return status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_memory() -> int:
    """The resident memory of this process now, in bytes; 0 where the system does not say."""
    return status_bytes("VmRSS")


def reset_peak_memory() -> bool:
    """Let `peak_memory` start from now; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def gpu_facts(device: str | None = None) -> dict[str, Any]:
    """An NVIDIA GPU as flat JSON data: that of a torch device, else the one that torch takes; {} where it sees none."""
    if not torch.cuda.is_available():
        return {}
    there = None if device is None else torch.device(device)
    properties = torch.cuda.get_device_properties(there if there is not None and there.type == "cuda" else None)
    facts = {
        "gpu": properties.name,
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "gpu_memory_bytes": properties.total_memory,
        "gpu_driver": gpu_driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    return {name: value for name, value in facts.items() if value}


@cache
def gpu_driver() -> str:
    """The version of the NVIDIA driver, by `nvidia-smi`; "" where that does not say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.strip().split("\n")[0].strip()


def gpu_memory(device: str | torch.device) -> int:
    """Bytes that tensors have on a GPU now; 0 for another device."""
    there = torch.device(device)
    return torch.cuda.memory_allocated(there) if there.type == "cuda" else 0


def gpu_peak_of(call: Callable[[], Any], device: torch.device) -> int:
    """The bytes that tensors have at most on a GPU during a call, those included that are there anyway."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def release_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library can, so that a rise of it shows."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    gc.collect()
    if trim is not None:
        trim(0)


def int8_over_fp32(flags: set[str]) -> float | None:
    """INT8 over FP32 multiply-adds a cycle and core, at most.

    AVX2 and AVX-512 without VNNI: an INT8 multiply-add is three instructions (VPMADDUBSW, VPMADDWD, VPADDD) on four
    times the lanes; 32 a cycle against 16 were measured: 2. VNNI (VPDPBUSD, one instruction on four times the lanes
    of VFMADD): 4. AMX: 1024 a cycle (TDPBUSD) against 32 of AVX-512: 32. Source: Intel 64 and IA-32 Architectures
    Optimization Reference Manual, chapters on VNNI and on AMX. Arm DotProd: 4, I8MM: 8 (Arm Neoverse optimisation
    guides: SDOT and SMMLA at the rate of FMLA).
    """
    for flag, ratio in (("amx_int8", 32.0), ("avx512_vnni", 4.0), ("avx_vnni", 4.0), ("avx512f", 2.0), ("avx2", 2.0)):
        if flag in flags:
            return ratio
    return 8.0 if "i8mm" in flags else 4.0 if "asimddp" in flags else None


def usable_flags(flags: tuple[str, ...], isa_cap: str) -> set[str]:
    """The flags that oneDNN uses under a cap such as AVX2."""
    if isa_cap.upper() not in ISA_CAPS:
        return set(flags)
    barred = {"amx_int8", "avx512_vnni", "avx_vnni"} | (set() if isa_cap.upper() == "AVX512_CORE" else {"avx512f"})
    return set(flags) - barred


def cpuinfo_field(text: str, name: str) -> str:
    """The first value of a field of /proc/cpuinfo, or an empty string."""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def cpuinfo_flags(text: str) -> set[str]:
    """The instruction flags of /proc/cpuinfo (x86 `flags`, Arm `Features`)."""
    return set((cpuinfo_field(text, "flags") or cpuinfo_field(text, "Features")).split())


def status_bytes(name: str) -> int:
    """A size of /proc/self/status in bytes; 0 where there is none."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
