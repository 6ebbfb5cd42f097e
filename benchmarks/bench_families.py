"""Which pipelines work, proven one by one on tiny pipelines of real diffusers classes: the table of docs/families.md.

    python benchmarks/bench_families.py [--quick] [--only NAME,NAME] [--page docs/families.md]

Random weights: the errors say that nothing is wrong, not how good the pictures of a trained model are.
"""

import sys
import tempfile
import time
from pathlib import Path

from common import parser, save

from ptq4dm.progress import progress

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

COLUMNS = (
    "pipeline", "denoisers", "calls made (saved)", "rows (of running it)", "layers in INT8", "of the multiply-adds",
    "error of a call", "INT8 on the CPU", "engine to simulated", "of a call in float64 (float32)", "loaded: same bits",
)  # fmt: skip


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("--only", help="families, comma-separated (default: all)")
    own.add_argument("--page", type=Path, help="write the table as a page, too")
    args = own.parse_args()
    from families import FAMILIES
    from families.proof import FULL, prove

    names = args.only.split(",") if args.only else list(FAMILIES)[: 2 if args.quick else None]
    rows = []
    with progress("families", len(names), sys.stderr.isatty()) as advance, tempfile.TemporaryDirectory() as folder:
        for name in names:
            started = time.perf_counter()
            proof = prove(FAMILIES[name], Path(folder) / name, recipe=FULL).to_json()
            proof["faults"] = [fault.replace(f"{folder}/", "") for fault in proof["faults"]]
            rows.append({**proof, "seconds": round(time.perf_counter() - started, 1)})
            print(" | ".join(cells(rows[-1])), flush=True)
            advance(1)
    save("families", args, {"rows": rows})
    if args.page:
        args.page.write_text(page(rows))


def cells(row: dict) -> list[str]:
    """One row of the table in words."""
    same = ", ".join(f"{backend} {'yes' if equal else 'NO'}" for backend, equal in row["same_again"].items())
    missing = "; ".join(row["faults"])
    return [
        row["family"],
        ", ".join(row["denoisers"]),
        f"{row['calls_made']} ({row['calls_saved']})",
        "" if row["rows_made"] is None else f"{row['rows_made']} ({row['rows_of_running']})",
        f"{row['layers'][0]} of {row['layers'][1]}",
        f"{100 * row['share']:.1f} %",
        ", ".join(f"{100 * error:.2f} %" for error in row["call_error"].values()),
        f"{row['on_cpu'][0]} of {row['on_cpu'][1]}" if row["on_cpu"] else missing,
        "" if row["engine_error"] is None else f"{row['engine_error']:.1e}",
        ", ".join(
            f"{distance:.1e} ({row['float32_distance'][name]:.1e})" for name, distance in row["engine_distance"].items()
        ),
        same or missing,
    ]


def page(rows: list[dict]) -> str:
    """The page for docs, in Markdown."""
    lines = [
        "# Pipelines, and what was proven for each",
        "",
        "Made by `python benchmarks/bench_families.py --page docs/families.md`; not typed. Each row is a tiny pipeline",
        "of real diffusers classes with random weights (tests/families), walked through the whole job: denoisers found",
        "at work, calibrated while the pipeline draws, quantized, drawn with on the simulated backend and in INT8 on",
        "the CPU (OpenVINO), saved, loaded and drawn with again. *calls*: of the watched runs, one a picture and step.",
        "*rows*: of the batches of all calls that calibrating makes, the first run, checks and the search for the",
        "sensitive layers included, and of running the pipeline for the same pictures; with guidance a picture is two",
        "rows of a call. *error of a call*: relative L2 against float of the first call of the first run. *engine",
        "to simulated*: relative L2 of the pictures; where it is larger than float rounding, one rounding went the",
        "other way on the trajectory. *of a call in float64*: of each denoiser's first call in INT8, with twice its",
        "batch, from the simulated network in float64 (and of the simulated network in float32 from there: near 1e-7",
        "no rounding goes the other way, above 1e-4 at least one does, and which one is chance). *loaded*: by",
        "`ptq4dm.load`, on each backend, and by diffusers alone (`from_pretrained`, `save_pretrained`,",
        "`from_pretrained`).",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
