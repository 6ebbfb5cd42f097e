"""The README's commands run as they stand, on the built-in model with the default path: smaller numbers, one round of
timing."""

import functools
import shlex

from readme import block

from ptq4dm.cli import evaluate
from ptq4dm.cli.main import main

SMALLER = {"--samples 32": "--samples 8", "--steps 10": "--steps 4", "--rounds 3": "--rounds 1"}
PROGRAMS = ("quantize", "sample", "inspect", "evaluate", "bench", "report", "export", "zoo")


def test_the_command_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "evaluate", functools.partial(evaluate.evaluate, speed_rounds=1))
    commands = [shlex.split(line) for line in block("bash", 0, SMALLER).strip().split("\n")]
    assert [command[:2] for command in commands] == [["ptq4dm", program] for program in PROGRAMS]
    for _, *arguments in commands:
        assert main(arguments) == 0, f"{shlex.join(arguments)}: {capsys.readouterr().err}"
    assert capsys.readouterr().err.count("quantized layers in INT8\n") >= 2  # `sample` and `bench` say so
    assert (tmp_path / "pictures.png").exists() and (tmp_path / "results" / "report.html").exists()
