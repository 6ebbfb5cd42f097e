"""The page of a study: every question, every sentence from the rows, nothing fetched."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report.study_example import HERE, write_study

from ptq4dm.errors import ArtifactError
from ptq4dm.report.study_page import build_study_page
from ptq4dm.report.study_text import study_text
from ptq4dm.studies.sentences import NAIVE, OTHER, QUESTIONS, sentence
from ptq4dm.studies.store import FORMAT_VERSION


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    return write_study(tmp_path)


def test_the_page_says_what_the_rows_say(study_folder: Path) -> None:
    html = build_study_page(study_folder).read_text()
    for question in ("drift", "metrics", "operations"):
        assert QUESTIONS[question] in html
    assert QUESTIONS["bits"] not in html
    assert "1 are worse (the worst: KL, 50 % a call)" in html
    assert "1 are better (the best: min-max, 0.8 % a call)" in html
    assert "not applicable: the network predicts no variance" in html
    assert "changes the picture most at t = 500, by 3 per unit, and least at t = 980, by 0.01" in html
    assert "That is not better than both beyond the 95 % intervals, over 3 pictures" in html
    assert html.count("What an error at each time-step does to the picture") == 2
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
    said = sentence("metrics", metrics)
    assert said.startswith("Of 3 variants compared with the default recipe or the row that they name, 1 do not differ")


def test_the_default_recipe_stands_among_the_others(study_folder: Path) -> None:
    results = json.loads((study_folder / "study.json").read_text())
    words = "2 have a smaller error of a call beyond their own 95 % interval (metrics: min-max; auto: "
    assert words in study_text(results) and words in build_study_page(study_folder).read_text()


def test_samplers_are_told_by_what_they_were_calibrated_on() -> None:
    """Ten pictures under one sampler, four under another: each question has its own answer, and n is a span."""

    def row(variant: str, shift: float, n: int) -> dict[str, Any]:
        low, high = shift - 0.001, shift + 0.001
        found = {"value": shift, "low": low, "high": high, "n": n}
        of_call = {"relative_l2": {"mean": 0.01 + shift, "difference": found if shift else None}}
        return {"variant": variant, "n": n, "call": of_call, "picture": {}, "per_picture": {"relative_l2": []}}

    rows = [row("ddim-20: default calibration", 0.0, 10), row("ddpm-1000: default calibration", 0.0, 4)]
    rows += [row(f"ddim-20: {OTHER}", -0.002, 10), row(f"ddim-20: {NAIVE}", 0.005, 10)]
    rows += [row(f"ddpm-1000: {NAIVE}", 0.0005, 4)]
    said = sentence("samplers", rows)
    assert "on the sampler that draws: better under ddim-20, no different under 0 of 1 samplers." in said
    assert "at t = 0 alone: worse under ddim-20, no different under 1 of 2 samplers." in said
    assert "over 4 to 10 pictures" in said


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no study.json in .*ptq4dm study"):
        build_study_page(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(ArtifactError, match=f"is no study of version {FORMAT_VERSION}"):
        build_study_page(tmp_path)


def test_the_page_shows_histograms_perceptual_distances_and_psnr_over_time(study_folder: Path) -> None:
    html = build_study_page(study_folder).read_text()
    assert "Histograms of the inputs of up_blocks.0.conv&lt;1&gt;" in html and "t about 500" in html
    assert "in 1 of 1 layers after its channels were divided by their smoothing factors" in html
    assert html.count("0.123") >= 5 and "several layers of some network" in html
    assert "1.5 on average between the float model’s test pictures" in html
    assert "PSNR of a call over the time-steps" in html


def changed(folder: Path, **changes: object) -> dict[str, Any]:
    """The example with its second row of metrics changed, written again."""
    results = json.loads((folder / "study.json").read_text())
    next(row for row in results["rows"] if row["variant"] == "KL").update(changes)
    (folder / "study.json").write_text(json.dumps(results))
    return results


def test_rows_of_other_versions_or_processors_are_told(study_folder: Path) -> None:
    assert "Not all rows were measured alike" not in build_study_page(study_folder).read_text()
    changed(study_folder, environment={**HERE, "processor": "another"})
    html = build_study_page(study_folder).read_text()
    assert "Not all rows were measured alike, so some of their differences may come from that: 8 with ptq4dm" in html
    assert "1 with ptq4dm 1.0, torch 2.0 on another (AVX2, no VNNI), threads: 2." in html


def test_laws_that_the_sweep_gives_in_part_only_and_shared_time_are_told(study_folder: Path) -> None:
    assert "with D up to" not in build_study_page(study_folder).read_text()
    changed(study_folder, law_distance=0.0625, shared_seconds=12.4)
    html = build_study_page(study_folder).read_text()
    assert "the ranges of 1 variants are not quite those" in html and "with D up to 0.0625 (KL)" in html
    assert "2 s + 12 s" in html


def test_a_study_without_an_extractor_says_why(study_folder: Path) -> None:
    results = changed(study_folder)
    results["perceptual"] = {"extractor": None, "why_none": "pip install it"}
    (study_folder / "study.json").write_text(json.dumps(results))
    assert "No perceptual distance: pip install it." in build_study_page(study_folder).read_text()
