"""`make demo` after installation: the demo command as the Makefile has it, in an empty folder; seconds of each stage.

python benchmarks/bench_demo.py [--quick] [--limit 300]

The command runs in a process of its own, with the page and its progress bars as a user gets them. A stage begins when
the command says so ("1/3 quantize ..."); "start" is what comes before the first: Python, imports, the float model.
"""

import io
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import parser, save

from ptq4dm.files import read_json

ROOT = Path(__file__).parents[1]
STAGE = re.compile(r"(\d)/3 ")
NAMES = ("start", "quantize", "evaluate", "page")
FEWER = "float_share = 0.0\n[calibration]\nsamples = 4\nsteps = 4\nbatch_size = 4\n[weights]\nerror_feedback = false\n"
"""The recipe of a quick try."""


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("--limit", type=float, default=300.0, help="seconds that it may take (default 300)")
    args = own.parse_args()
    with tempfile.TemporaryDirectory() as place:
        arguments = demo_arguments((ROOT / "Makefile").read_text())
        if args.quick:
            (Path(place) / "fewer.toml").write_text(FEWER)
            arguments += ["--recipe", "fewer.toml", "--count", "2", "--steps", "2"]
        command = [sys.executable, "-m", "ptq4dm.cli.main", *arguments]
        seconds = timed_stages(command, place)
        out = Path(place) / arguments[arguments.index("--out") + 1]
        made = {"page_bytes": (out / "report.html").stat().st_size, "calibration": calibration_of(out)}
    whole = sum(seconds.values())
    for name, taken in seconds.items():
        print(f"  {name:10s} {taken:7.1f} s")
    print(f"  {'whole':10s} {whole:7.1f} s of {args.limit:g} s: {'met' if whole <= args.limit else 'MISSED'}")
    results = {
        "what": f"ptq4dm {' '.join(arguments)}, in an empty folder, after installation",
        "seconds": {**seconds, "whole": whole},
        "limit_seconds": args.limit,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        **made,
    }
    save("demo", args, results)


def demo_arguments(makefile: str) -> list[str]:
    """What the Makefile's target `demo` gives to `ptq4dm`."""
    found = re.search(r"^demo:.*\n\t\S*ptq4dm (demo .*)$", makefile, re.MULTILINE)
    if found is None:
        sys.exit("the Makefile's target demo runs no `ptq4dm demo`: mend it, or this benchmark")
    return found[1].split()


def timed_stages(command: list[str], place: str) -> dict[str, float]:
    """Seconds of each stage of the command, run in the folder `place`; what it says goes on to this terminal."""
    marks = {NAMES[0]: time.perf_counter()}
    with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, stdout=sys.stderr) as process:
        assert process.stderr
        with io.TextIOWrapper(process.stderr, newline="") as told:  # a progress bar's \r ends a line too, and is kept
            for line in told:
                sys.stderr.write(line)
                sys.stderr.flush()
                if stage := STAGE.match(line):
                    marks[NAMES[int(stage[1])]] = time.perf_counter()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}")
    ends = [*list(marks.values())[1:], time.perf_counter()]
    return {name: end - begun for (name, begun), end in zip(marks.items(), ends, strict=True)}


def calibration_of(out: Path) -> dict[str, Any]:
    """What the page's results say of the calibration."""
    return read_json(out / "results" / "results.json")["recipe"]["calibration"]


if __name__ == "__main__":
    main()
