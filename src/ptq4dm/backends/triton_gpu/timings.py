"""Measured times of layers, kept on disk: one file a GPU, begun anew for other versions or another source."""

import dataclasses
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton

import ptq4dm
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.errors import ArtifactError, BackendWarning
from ptq4dm.files import read_json, write_json


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one call in INT8, with its fastest tile, and in float."""

    int8_ms: float
    float_ms: float
    tile: Settings


class Timings(MutableMapping[str, Timing]):
    """Timings by what was measured, written to `path` at each new one; without a path in memory only.

    hardware: what they hold for, with versions. A file of other hardware or versions, or a damaged one, is begun anew.
    """

    def __init__(self, path: Path | None, hardware: dict[str, Any]):
        self.path, self.hardware = path, hardware
        self.items_: dict[str, Timing] = {}
        if path is not None and path.exists():
            self.items_ = read_timings(path, hardware)

    def __getitem__(self, key: str) -> Timing:
        """The timing under that key."""
        return self.items_[key]

    def __setitem__(self, key: str, value: Timing) -> None:
        """Keep a timing, with those that another process has written meanwhile."""
        if self.path is not None and self.path.exists():
            self.items_ = read_timings(self.path, self.hardware) | self.items_
        self.items_[key] = value
        if self.path is None:
            return
        plain = {name: dataclasses.asdict(item) for name, item in self.items_.items()}
        try:
            write_json(self.path, {"hardware": self.hardware, "timings": plain})
        except ArtifactError as error:
            warnings.warn(f"times of layers are measured again next time: {error}", BackendWarning, stacklevel=2)
            self.path = None

    def __delitem__(self, key: str) -> None:
        """Forget a timing, in memory."""
        del self.items_[key]

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self.items_)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.items_)


def read_timings(path: Path, hardware: dict[str, Any]) -> dict[str, Timing]:
    """The timings of a file; none if it is of other hardware or versions, or damaged."""
    try:
        data = read_json(path)
        if data["hardware"] != hardware:
            return {}
        return {
            key: Timing(item["int8_ms"], item["float_ms"], Settings(**item["tile"]))
            for key, item in data["timings"].items()
        }
    except (ArtifactError, KeyError, TypeError, AttributeError):
        return {}


@cache
def source_hash() -> str:
    """What changes with any line of this backend."""
    whole = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def timings_of(device: torch.device) -> Timings:
    """The timings of a GPU, in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    properties = torch.cuda.get_device_properties(device)
    hardware = {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "ptq4dm": ptq4dm.__version__,
        "source": source_hash(),
    }
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub(r"[^a-z0-9]+", "-", properties.name.lower()).strip("-")
    return Timings(cache / "ptq4dm" / f"triton-{name}.json", hardware)
