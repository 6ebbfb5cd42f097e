"""What the GPU benchmarks share: the card, timing with events, the file of results, which is written after each step.

With `--rehearse` a benchmark goes through its steps on the CPU, on tiny shapes in Triton's interpreter, and times
that mean nothing: to see that it runs before a GPU is paid for.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import ptq4dm

RESULTS = Path(__file__).parent / "results"
PACKAGES, PEERS = ("torch", "triton", "diffusers"), ("torchao", "optimum-quanto")
AGAIN = 3
"""The exit status of a benchmark that ran out of time: the same command goes on where it ended."""
REHEARSAL = "rehearsal"
SOURCES = (Path(ptq4dm.__file__).parent, Path(__file__).parent)
"""What rows depend on: the networks, how they are quantized and run, and how that is measured."""
FLUSHED, ASLEEP = 256 << 20, 2_000_000
"""Bytes that are written, and as many that are read, before each timed call, more than any cache holds; clock cycles
that the GPU then sleeps, in which the host gets ahead of it: what is timed is the GPU's work and not Python's."""
SLEEP_MS = 1.0
"""About how long that is."""


def parser(description: str) -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(description=description.split("\n")[0])
    own.add_argument("--out", type=Path, default=RESULTS, help="folder of results (default benchmarks/gpu/results)")
    own.add_argument("--deadline", type=float, default=540.0, help="seconds after which nothing new is begun (540)")
    own.add_argument("--rounds", type=int, default=20, help="alternating rounds (default 20)")
    own.add_argument("--again", action="store_true", help="measure again what the file of results has already")
    own.add_argument(
        "--rehearse", action="store_true", help="run on the CPU in Triton's interpreter; tiny, no real times"
    )
    return own


def require_gpu(rehearse: bool) -> torch.device:
    """The GPU, or the CPU for a rehearsal; leaves with a line where there is no GPU.

    A rehearsal begins the program anew once: Triton reads TRITON_INTERPRET when it is imported.
    """
    if rehearse:
        if os.environ.get("TRITON_INTERPRET") != "1":
            os.environ["TRITON_INTERPRET"] = "1"
            os.execv(sys.executable, [sys.executable, *sys.argv])
        return torch.device("cpu")
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        sys.exit(
            "this benchmark runs on an NVIDIA GPU of compute capability 8.0 or later, and there is none here: "
            "--rehearse goes through its steps on the CPU"
        )
    return torch.device("cuda", torch.cuda.current_device())


def keep_compile_caches(out: Path) -> None:
    """Let Inductor and Triton keep what they compile, and the backend the times of tiles, beside the results, so that a
    second run begins where this ended. Before torch compiles anything."""
    os.environ["XDG_CACHE_HOME"] = str(out / "cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(out / "cache" / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(out / "cache" / "triton"))
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")


@cache
def stamp() -> str:
    """What a row holds for: the card, driver and versions, and the source of the package and of the benchmarks; not the
    peers, whose own rows are to be measured again (`--again`) where another version of them is installed."""
    lasting = {key: value for key, value in hardware().items() if key not in ("date", "clocks", *PEERS)}
    whole = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode())
    for folder in SOURCES:
        for path in sorted(folder.rglob("*.py")):
            whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


@cache
def hardware() -> dict[str, Any]:
    """The card, driver, versions and date."""
    packages = {"ptq4dm": ptq4dm.__version__, **{name: installed(name) for name in (*PACKAGES, *PEERS)}}
    packages["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    if not torch.cuda.is_available():
        return {"gpu": REHEARSAL, **packages}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "driver": asked_of_the_card("driver_version"),
        "clocks": asked_of_the_card("clocks.sm,clocks.mem,temperature.gpu"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **packages,
    }


def asked_of_the_card(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "nvidia-smi cannot be run"


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


class Results:
    """One JSON file, written whole after each change; what it has of this card, these versions and this source is not
    measured again, but for what could not run."""

    def __init__(self, args: argparse.Namespace, name: str):
        card = REHEARSAL if args.rehearse else torch.cuda.get_device_name().lower().replace(" ", "-")
        self.path = args.out / f"{name}-{card}.json"
        self.data: dict[str, Any] = {"benchmark": name, "hardware": hardware(), "rows": {}}
        if self.path.exists() and not getattr(args, "again", False):
            rows = json.loads(self.path.read_text())["rows"]
            self.data["rows"] = {key: row for key, row in rows.items() if row.get("stamp") == stamp()}

    @property
    def rows(self) -> dict[str, Any]:
        """What was measured, by name."""
        return self.data["rows"]

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those that were not measured; then those that could not run, which are tried again."""
        wanted = list(names)
        absent = [name for name in wanted if name not in self.rows]
        return absent + [name for name in wanted if "cannot" in self.rows.get(name, {})]

    def keep(self, name: str, row: Mapping[str, Any]) -> None:
        """Keep a row; write all to the file, whole or not at all."""
        self.rows[name] = {**row, "stamp": stamp()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        building = self.path.with_suffix(".tmp")
        building.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(building, self.path)


def alternating(calls: Mapping[str, Callable[[int], Any]], rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Milliseconds of each call, by CUDA events, in turns; every second round the other way round.

    A call gets the number of the round, to rotate its inputs by.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    clock, warm_up = (by_events, warm_up) if torch.cuda.is_available() else (by_clock, 0)
    for index in range(-warm_up, rounds):
        for name in list(calls)[:: 1 if index % 2 == 0 else -1]:
            milliseconds = clock(calls[name], index)
            if index >= 0:
                taken[name].append(milliseconds)
    return taken


def by_events(call: Callable[[int], Any], index: int) -> float:
    """Milliseconds of one call on a GPU that has nothing else to do, whose caches hold none of its inputs."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    flush()
    torch.cuda._sleep(ASLEEP)
    started.record()
    call(index)
    ended.record()
    ended.synchronize()
    return started.elapsed_time(ended)


def flush() -> None:
    """Put everything else out of the caches, and leave in them what need not be written back: lines that were written
    would go to memory while the next call is timed."""
    written, read, total = flushing()
    written.zero_()
    torch.sum(read, dim=0, out=total)


@cache
def flushing() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is written, what is then read, and where that sum goes."""
    written, read = (torch.zeros(FLUSHED // 4, device="cuda") for _ in range(2))
    return written, read, torch.zeros((), device="cuda")


def host_milliseconds(call: Callable[[int], Any], rounds: int = 3) -> float:
    """Milliseconds until the host has handed a call to the GPU, median of a few; 0 in a rehearsal."""
    taken = [0.0]
    for index in range(rounds if torch.cuda.is_available() else 0):
        torch.cuda.synchronize()
        taken.append(by_clock(call, index))
    return statistics.median(taken[1:] or taken)


def host_bound(milliseconds: float, host: float) -> bool:
    """Whether what was timed is the host: it was still handing over kernels, past the sleep, when the GPU was done."""
    return host > SLEEP_MS and host > 0.9 * (milliseconds + SLEEP_MS)


def by_clock(call: Callable[[int], Any], index: int) -> float:
    """Milliseconds of one call by the host's clock."""
    began = time.perf_counter()
    call(index)
    return 1e3 * (time.perf_counter() - began)


def reason(error: Exception) -> str:
    """What an exception says, with its type, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles, milliseconds."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [times[0]] * 3
    return {"median": median, "low": low, "high": high}


def ratio(baseline: list[float], contestant: list[float]) -> dict[str, float]:
    """How many times faster the contestant is: median and quartiles of the ratios of rounds."""
    return spread([one / other for one, other in zip(baseline, contestant, strict=True)])


def require_answer(after: str) -> None:
    """Leave where the GPU answers this process no more, as after an illegal access: another goes on with the rest."""
    try:
        synchronize()
    except RuntimeError as error:
        print(f"the GPU does not answer after {after} ({reason(error)}): run the command again to go on")
        sys.exit(AGAIN)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Clock:
    """How long this command has run."""

    def __init__(self, deadline: float):
        self.began, self.deadline = time.monotonic(), deadline

    def over(self, share: float = 1.0) -> bool:
        """Whether that share of the time is used up."""
        return time.monotonic() - self.began > share * self.deadline
