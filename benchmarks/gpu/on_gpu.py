"""What the GPU benchmarks share: the card, timing with events, the file of results, which is written after each
step."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("ptq4dm", "torch", "triton", "diffusers", "torchao")


def parser(description: str) -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(description=description.split("\n")[0])
    own.add_argument("--out", type=Path, default=RESULTS, help="folder of results (default benchmarks/gpu/results)")
    own.add_argument("--deadline", type=float, default=540.0, help="seconds after which nothing new is begun (540)")
    own.add_argument("--rounds", type=int, default=20, help="alternating rounds (default 20)")
    own.add_argument("--again", action="store_true", help="measure again what the file of results has already")
    return own


def require_gpu() -> torch.device:
    """The GPU; leaves with a line where there is none."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        sys.exit("this benchmark runs on an NVIDIA GPU of compute capability 8.0 or later: there is none here")
    return torch.device("cuda", torch.cuda.current_device())


def keep_compile_caches(out: Path) -> None:
    """Let Inductor and Triton keep what they compile beside the results, so that a second run begins where this ended.

    Before torch compiles anything.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(out / "cache" / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(out / "cache" / "triton"))
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")


def hardware() -> dict[str, Any]:
    """The card, driver, versions and date."""
    properties = torch.cuda.get_device_properties(0)
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,temperature.gpu", "--format=csv,noheader"]
    try:
        driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        driver = "nvidia-smi cannot be run"
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver, SM clock, memory clock, temperature": driver,
        "cuda": torch.version.cuda,
        **{name: installed(name) for name in PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


class Results:
    """One JSON file, written whole after each change; what it has is not measured again."""

    def __init__(self, args: argparse.Namespace, name: str):
        card = torch.cuda.get_device_name().lower().replace(" ", "-")
        self.path = args.out / f"{name}-{card}.json"
        self.data: dict[str, Any] = {"benchmark": name, "hardware": hardware(), "rows": {}}
        if self.path.exists() and not args.again:
            self.data["rows"] = json.loads(self.path.read_text())["rows"]

    @property
    def rows(self) -> dict[str, Any]:
        """What was measured, by name."""
        return self.data["rows"]

    def write(self) -> None:
        """Write all to the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        building = self.path.with_suffix(".tmp")
        building.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(building, self.path)


def alternating(calls: Mapping[str, Callable[[int], Any]], rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Milliseconds of each call, by CUDA events, in turns; every second round the other way round.

    A call gets the number of the round, to rotate its inputs by.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(-warm_up, rounds):
        for name in list(calls)[:: 1 if index % 2 == 0 else -1]:
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            started.record()
            calls[name](index)
            ended.record()
            ended.synchronize()
            if index >= 0:
                taken[name].append(started.elapsed_time(ended))
    return taken


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles, milliseconds."""
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return {"median": median, "low": low, "high": high}


def ratio(baseline: list[float], contestant: list[float]) -> dict[str, float]:
    """How many times faster the contestant is: median and quartiles of the ratios of rounds."""
    return spread([one / other for one, other in zip(baseline, contestant, strict=True)])


class Clock:
    """How long this command has run."""

    def __init__(self, deadline: float):
        self.began, self.deadline = time.monotonic(), deadline

    def over(self, share: float = 1.0) -> bool:
        """Whether that share of the time is used up."""
        return time.monotonic() - self.began > share * self.deadline
