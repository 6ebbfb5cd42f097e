"""A study's results with everything that the page can show."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ptq4dm.studies.verdict import verdicts


def row(question: str, variant: str, error: float, baseline: str | None = "default", **more: Any) -> dict[str, Any]:
    difference = {"value": error - 0.01, "low": error - 0.0105, "high": error - 0.0095}
    values = [error, error * 1.1, error * 0.9]
    return {
        "question": question,
        "variant": variant,
        "key": variant,
        "note": "",
        "baseline": baseline,
        "sampler": "ddim",
        "steps": 50,
        "n": 3,
        "call": {
            "relative_l2": {"mean": error, "identical": 0, "difference": difference if baseline else None},
            "psnr": {"mean": 50.0, "identical": 0, "difference": None},
        },
        "picture": {"psnr": {"mean": 30.0, "identical": 0, "difference": None}},
        "curve": {"t": [980, 0], "relative_l2": [error, error], "standard_error": [error / 10] * 2},
        "per_picture": {"relative_l2": values, "call_psnr": [50.0] * 3, "picture_psnr": [30.0] * 3},
        "sheet": "pictures/one.png",
        "seconds": 1.5,
        "peak_bytes": 1000000,
        **more,
    }


def write_study(folder: Path) -> Path:
    """Write `study.json` and the sheet that its rows name; returns the folder."""
    layer = {"layer": "up_blocks.0.conv<1>", "drift": 1.5, "min": [-1.0, -2.0], "max": [1.0, 2.0]}
    layer["percentiles"] = {"1": [-0.9, -1.9], "99": [0.9, 1.9], "25": [0, 0], "50": [0, 0], "75": [0, 0]}
    rows = [
        row("default", "default", 0.01, baseline=None),
        {"question": "drift", "variant": "inputs", "key": "d", "note": "", "baseline": None, "seconds": 1.0,
         "facts": {"t": [0.0, 500.0], "median": 1.5, "most": 1.5, "layers": [layer]}},
        row("metrics", "MSE", 0.01, baseline=None),
        row("metrics", "KL", 0.5),
        row("metrics", "L1 <b>", 0.0100001, note="a note"),
        row("metrics", "min-max", 0.008),
        {"question": "operations", "variant": "variance Σ", "key": "v", "note": "", "baseline": None, "seconds": 0.0,
         "not_applicable": "the network predicts no variance"},
        row("operations", "SiLU", 0.02),
    ]  # fmt: skip
    results = {
        "format_version": 1,
        "model": {"name": "net"},
        "settings": {"pictures": 3, "sampler": "ddim", "steps": 50, "trajectories": 2, "quick": True},
        "recipe": {"name": "w8a8"},
        "left_in_float": {},
        "float_sheet": "pictures/one.png",
        "rows": rows,
        "verdicts": verdicts(rows),
        "seconds": {"all rows": 9.0},
        "environment": {},
    }
    (folder / "pictures").mkdir()
    Image.new("RGB", (16, 4), (200, 30, 40)).save(folder / "pictures" / "one.png")
    (folder / "study.json").write_text(json.dumps(results))
    return folder
