"""The page of a study: every question, every sentence from the rows, nothing fetched."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ptq4dm.errors import ArtifactError
from ptq4dm.report.study_page import build_study_page
from ptq4dm.report.study_text import study_text
from ptq4dm.studies.sentences import QUESTIONS, sentence
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


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
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
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (16, 4), (200, 30, 40)).save(tmp_path / "pictures" / "one.png")
    (tmp_path / "study.json").write_text(json.dumps(results))
    return tmp_path


def test_the_page_says_what_the_rows_say(study_folder: Path) -> None:
    html = build_study_page(study_folder).read_text()
    for question in ("drift", "metrics", "operations"):
        assert QUESTIONS[question] in html
    assert QUESTIONS["bits"] not in html
    assert "1 are worse (the worst: KL, 50 % a call)" in html
    assert "1 are better (the best: min-max, 0.8 % a call)" in html
    assert "not applicable: the network predicts no variance" in html
    assert "L1 &lt;b&gt;" in html and "L1 <b>" not in html
    assert "50.0 %" in html and "data:image/png;base64," in html
    assert not re.search(r"""(src|href)=["']https?://""", html)


def test_the_terminal_says_the_same(study_folder: Path) -> None:
    text = study_text(json.loads((study_folder / "study.json").read_text()))
    assert re.search(r"KL\s+50.0 % a call\s+30.0 dB\s+worse", text)
    assert "not measured" in text and "drift by 1.50 bits" in text


def test_rows_that_do_not_differ_are_said_not_to(study_folder: Path) -> None:
    rows = json.loads((study_folder / "study.json").read_text())["rows"]
    metrics = [item for item in rows if item["question"] == "metrics"]
    assert sentence("metrics", metrics).startswith("Of 3 variants compared with the default recipe, 1 do not differ")


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no study.json in .*ptq4dm study"):
        build_study_page(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(ArtifactError, match="is no study of version 1"):
        build_study_page(tmp_path)
