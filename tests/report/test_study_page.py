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
from ptq4dm.studies.sentences import QUESTIONS, sentence
from ptq4dm.studies.store import FORMAT_VERSION
from ptq4dm.studies.variants import NAIVE, OTHER


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
    assert "That is not better than both beyond the 95 % intervals, over 3 pictures; of the 0 other laws" in html
    assert "Rounded alone: SiLU 2 % a call. Means over 3 pictures." in html
    assert "mean in [0.752, 1.25] %" in html  # of the default recipe's row: Student's t on 0.9, 1 and 1.1
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
        values = [0.01 + shift, 0.0101 + shift]
        return {"variant": variant, "n": n, "call": of_call, "picture": {}, "per_picture": {"relative_l2": values}}

    rows = [row("ddim-20: default calibration", 0.0, 10), row("ddpm-1000: default calibration", 0.0, 4)]
    rows += [row(f"ddim-20: {OTHER}", -0.002, 10), row(f"ddim-20: {NAIVE}", 0.005, 10)]
    rows += [row(f"ddpm-1000: {NAIVE}", 0.0005, 4)]
    said = sentence("samplers", rows)
    assert "on the sampler that draws: better under ddim-20, no different under 0 of 1 samplers." in said
    assert "at t = 0 alone: worse under ddim-20, no different under 1 of 2 samplers." in said
    assert "over 4 to 10 pictures" in said
    assert "is 1.05 (ddpm-1000) to 1.50 (ddim-20) times that of one calibration" in said
    assert "the ratios of the 2 samplers differ beyond their intervals" in said


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


def measured(variant: str, percent: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    """A row with an error of a call, and the interval of its difference, in percent."""
    found = {"value": (low + high) / 2, "low": low, "high": high, "n": 8}
    call = {"relative_l2": {"mean": percent / 100, "difference": found}}
    return {"variant": variant, "key": variant, "baseline": "b", "n": 8, "call": call, "picture": {},
            "per_picture": {"relative_l2": [percent / 100] * 2}, **more}  # fmt: skip


def test_bits_are_counted_down_to_the_first_that_is_worse() -> None:
    rows = [measured("W8A8", 0.5, 0, 0), measured("W7A7", 0.8, 0.1, 0.2), measured("W7A8", 0.5, -0.1, 0.1)]
    rows += [measured("W6A8", 0.6, 0.1, 0.2), measured("W5A8", 0.5, -0.1, 0.1), measured("W8A7", 0.4, -0.2, -0.1)]
    said = sentence("bits", rows_with_question("bits", rows))
    assert "Weights and activations: W7A7 0.8 % a call; already W7A7 is worse." in said
    assert "W5A8 0.5 % a call; down to W7A8 none is worse." in said
    assert "Activations alone: W8A7 0.4 % a call; down to W8A7 none is worse." in said


def test_samples_are_enough_from_the_first_number_on_that_is_not_worse() -> None:
    rows = [measured("4", 9, 1, 2), measured("8", 1, -1, 1), measured("16", 2, 1, 2), measured("32", 1, -1, 1)]
    rows += [measured("64", 0.9, 0, 0), measured("8, draw 2", 1.5, 0, 1)]
    said = sentence("samples", rows_with_question("samples", rows))
    assert said.startswith("From 32 samples on none is worse than 64 (0.9 % a call): 4 9 % a call, 8 1 % a call")
    assert "Draws of 8 samples give 1 % a call, 1.5 % a call." in said


def rows_with_question(question: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "question": question} for row in rows]


def test_distances_from_the_data_have_a_chart_and_bands_a_note(study_folder: Path) -> None:
    results = json.loads((study_folder / "study.json").read_text())
    item = {
        "measure": "Fréchet distance",
        "float": 80.0,
        "int8": 81.0,
        "difference": 1.0,
        "low": 0.5,
        "high": 1.5,
        "n": 9,
    }
    few = item | {"low": None, "high": None, "difference": -2.0}
    for name, facts in (("default", item), ("metrics: KL", few)):
        results["rows"].append({"question": "distribution", "variant": name, "key": name, "note": "", "baseline": None,
                                "seconds": 1.0, "facts": {"rows": [facts]}})  # fmt: skip
    bands = {"cuts": [200.0, 600.0], "loss": [1.0, 0.7, 0.5, 0.4]}
    results["rows"].append(
        {**results["rows"][0], "question": "time_scales", "variant": "A8, 3 bands", "key": "b", "time_bands": bands}
    )
    (study_folder / "study.json").write_text(json.dumps(results))
    html = build_study_page(study_folder).read_text()
    assert html.count("Distance from the data less that of the float model") == 2 and "Fréchet distance." in html
    assert html.count('class="dot-worse"') >= 2
    assert "A8, 3 bands: 3 bands, cut at t = 200, 600; inputs lose 50% of what they lose with one band" in html
