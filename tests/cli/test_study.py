"""`ptq4dm study` on a tiny model."""

import json
from pathlib import Path

import pytest
from diffusers import DDPMPipeline

from ptq4dm.cli.main import main


def test_one_experiment_from_the_command_line(
    pipe: DDPMPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe.save_pretrained(tmp_path / "model")
    command = ["study", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--quick", "--only", "drift"]
    assert main([*command, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [row["question"] for row in results["rows"]] == ["drift"]
    page = tmp_path / "out" / "study.html"
    assert page.stat().st_size > 5000
    page.unlink()
    assert main(["report", str(tmp_path / "out")]) == 0
    assert page.stat().st_size > 5000 and "study.html" in capsys.readouterr().out
    assert main(command) == 0
    assert "Half of the layers drift by" in capsys.readouterr().out


def test_an_unknown_experiment_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "emoji-32", "--out", str(tmp_path / "out"), "--only", "colour"]) == 2
    assert "no experiment 'colour': accepted are drift" in capsys.readouterr().err
