"""The page of a study: every question, every sentence from the rows, nothing fetched."""

import json
import re
from pathlib import Path

import pytest
from report.study_example import write_study

from ptq4dm.errors import ArtifactError
from ptq4dm.report.study_page import build_study_page
from ptq4dm.report.study_text import study_text
from ptq4dm.studies.sentences import QUESTIONS, sentence


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
