"""A study's results with everything that the page can show."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ptq4dm.studies.redundancy_sentences import GROWTH, NOISE, SHARES
from ptq4dm.studies.standing import standing
from ptq4dm.studies.store import FORMAT_VERSION
from ptq4dm.studies.verdict import verdicts

WEIGHTS = {"timesteps": [980, 500, 0], "weights": [0.01, 3.0, 0.5], "measured": [0, 2], "standard_errors": [0.002, 0.1]}
HERE = {"ptq4dm": "1.0", "torch": "2.0", "processor": "one", "int8_instructions": "AVX2, no VNNI", "threads": 2}


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
        "picture": {
            "psnr": {"mean": 30.0, "identical": 0, "difference": None},
            "perceptual": {"mean": 0.1234, "identical": 0, "difference": None},
        },
        "curve": {"t": [980, 0], "relative_l2": [error] * 2, "standard_error": [error / 10] * 2, "psnr": [50.0, None]},
        "per_picture": {"relative_l2": values, "call_psnr": [50.0] * 3, "picture_psnr": [30.0] * 3},
        "sheet": "pictures/one.png",
        "seconds": 1.5,
        "shared_seconds": 0.0,
        "peak_bytes": 1000000,
        "environment": HERE,
        **more,
    }


def redundancy_rows() -> list[dict[str, Any]]:
    """The three rows of facts: layers of 30 and 44 dB, an error that grows to 4 %, shares that add up to 1.5."""
    noise = [
        {
            "layer": name,
            "input": [db + 2, None],
            "output": [db, db - 4],
            "input_all": db + 2,
            "output_all": db - 1,
            "left_in_float": db < 40,
        }
        for name, db in (("up_blocks.0.conv<1>", 30.0), ("mid.attentions.0.to_q", 44.0))
    ]
    shares = [
        {"layer": "up_blocks.0.conv<1>", "share": 1.2, "macs": 0.01, "left_in_float": True},
        {"layer": "mid.attentions.0.to_q", "share": 0.3, "macs": 0.2, "left_in_float": False},
    ]
    facts: dict[str, dict[str, Any]] = {
        NOISE: {"t": [980, 0], "n": 3, "layers": noise},
        GROWTH: {"t": [980, 0], "n": 3, "x_t": {"mean": [0.0, 0.02], "standard_error": [0.0, 0.001]},
                 "call": {"mean": [0.01, 0.03], "standard_error": [0.001, 0.001]},
                 "picture": {"mean": 0.04, "standard_error": 0.002}},
        SHARES: {"t": [980, 0], "n": 3, "relative_l2": 0.02, "additivity": 1.5, "additivity_at": [1.4, 1.6], "half": 1,
                 "layers": shares},
    }  # fmt: skip
    return [
        {"question": "redundancy", "variant": name, "key": name, "note": "", "baseline": None, "seconds": 1.0,
         "facts": item}
        for name, item in facts.items()
    ]  # fmt: skip


def write_study(folder: Path) -> Path:
    """Write `study.json` and the sheet that its rows name; returns the folder."""
    layer: dict[str, Any] = {"layer": "up_blocks.0.conv<1>", "drift": 1.5, "min": [-1.0, -2.0], "max": [1.0, 2.0]}
    layer |= {"smoothed": True, "histogram": {"low": -2.0, "bin": 1.0, "per_10000": ["0 5000 5000 0", "1 4999 5000 0"]}}
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
        row("auto", "auto: p ∝ w(t)²", 0.009),
        row("auto", "NDTC as published", 0.01, baseline=None),
        row("auto", "uniform", 0.011),
        {"question": "auto", "variant": "what errors do", "key": "w", "note": "", "baseline": None, "seconds": 1.0,
         "facts": {"weights": WEIGHTS, "white": WEIGHTS}},
        *redundancy_rows(),
    ]  # fmt: skip
    results = {
        "format_version": FORMAT_VERSION,
        "model": {"name": "net"},
        "settings": {"pictures": 3, "sampler": "ddim", "steps": 50, "trajectories": 2, "quick": True},
        "recipe": {"name": "w8a8"},
        "left_in_float": {},
        "float_sheet": "pictures/one.png",
        "rows": rows,
        "verdicts": verdicts(rows),
        "standing": standing(rows),
        "seconds": {"all rows": 9.0},
        "perceptual": {"extractor": "some network", "why_none": "", "between_pictures": 1.5},
        "environment": {},
    }
    (folder / "pictures").mkdir()
    Image.new("RGB", (16, 4), (200, 30, 40)).save(folder / "pictures" / "one.png")
    (folder / "study.json").write_text(json.dumps(results))
    return folder
