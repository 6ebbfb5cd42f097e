"""Measured times of layers, kept on disk: one file a GPU, begun anew for other versions or another source.

Nothing here may keep a network from running: what cannot be read, is not valid or cannot be written is measured again.
"""

import dataclasses
import hashlib
import math
import os
import re
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
import triton
from filelock import FileLock

import ptq4dm
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.errors import ArtifactError, BackendWarning
from ptq4dm.files import make_folder, read_json, write_json

PATIENCE: Final = 5.0
"""Seconds to wait for another process that writes; it takes milliseconds."""


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
        self.items_ = {} if path is None else read_timings(path, hardware)

    def __getitem__(self, key: str) -> Timing:
        """The timing under that key."""
        return self.items_[key]

    def __setitem__(self, key: str, value: Timing) -> None:
        """Keep a timing, with those that another process has written meanwhile."""
        self.items_[key] = value
        if self.path is None:
            return
        try:
            make_folder(self.path.parent)
            with alone(self.path):
                self.items_ = read_timings(self.path, self.hardware) | self.items_
                plain = {name: dataclasses.asdict(item) for name, item in self.items_.items()}
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


def alone(path: Path) -> AbstractContextManager[object]:
    """While open, no other process reads and writes `path`: of two that do so at once, one would lose what it has
    measured. Nothing is held where there are no locks (some network folders), or one is not let go of."""
    lock = FileLock(f"{path}.lock", timeout=PATIENCE, poll_interval=0.01)
    try:
        return lock.acquire()
    except (OSError, NotImplementedError):  # a timeout of filelock is an OSError
        return nullcontext()


def read_timings(path: Path, hardware: dict[str, Any]) -> dict[str, Timing]:
    """The timings of a file that are valid; none if it is of other hardware or versions, or damaged."""
    try:
        data = read_json(path)
        if data["hardware"] != hardware:
            return {}
        found = {key: timing_of(item) for key, item in data["timings"].items()}
    except (ArtifactError, LookupError, TypeError, AttributeError, ValueError, RecursionError):
        return {}  # missing, or not of this form; numbers of too many digits; nested too deeply
    return {key: timing for key, timing in found.items() if timing is not None}


def timing_of(item: Any) -> Timing | None:
    """An entry of a file as a timing; None if it is none: times are floats above 0, a tile is of whole numbers."""
    try:
        timing = Timing(item["int8_ms"], item["float_ms"], Settings(**item["tile"]))
    except (LookupError, TypeError):
        return None
    timed = all(type(ms) is float and 0 < ms < math.inf for ms in (timing.int8_ms, timing.float_ms))
    whole = all(type(size) is int and size > 0 for size in dataclasses.astuple(timing.tile))
    return timing if timed and whole else None


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
    folder = cache_folder()
    if folder is None:
        why = "there is no home folder to keep them in; name a folder in XDG_CACHE_HOME"
        warnings.warn(f"times of layers are measured again next time: {why}", BackendWarning, stacklevel=2)
        return Timings(None, hardware)
    name = re.sub(r"[^a-z0-9]+", "-", properties.name.lower()).strip("-")
    return Timings(folder / "ptq4dm" / f"triton-{name}.json", hardware)


def cache_folder() -> Path | None:
    """The user's cache folder; None for a user without a home, as in some containers."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path.home() / ".cache"
    except RuntimeError:
        return None
