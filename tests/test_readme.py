"""The README's commands and its five lines run as they stand."""

import re
import shlex
from pathlib import Path

import pytest
from families import FAMILIES

from ptq4dm.backends.stand_in import stands_in
from ptq4dm.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language, index=0):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[index]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_the_five_lines_of_python(place, monkeypatch):
    monkeypatch.chdir(place)
    scope = {}
    lines = block("python").replace(
        '"w8a8-quick"', 'ptq4dm.load_recipe("w8a8-quick").replace(calibration={"samples": 8})'
    )
    exec(lines.replace("emoji-int8", "python-int8"), scope)
    pictures = scope["fast"](batch_size=1, num_inference_steps=2).images
    assert pictures[0].size == (32, 32)
    assert scope["ptq4dm"].load("python-int8").plan == scope["model"].plan


@pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")
def test_loading_by_diffusers(place, monkeypatch):
    monkeypatch.chdir(place)
    scope = {}
    exec(block("python", 1).replace("emoji-int8", "python-int8"), scope)
    assert stands_in(scope["pipe"].unet)
    assert scope["pipe"](batch_size=1, num_inference_steps=2).images[0].size == (32, 32)


def test_any_pipeline():
    scope = {"pipeline": FAMILIES["stable-diffusion"].build()}
    short = 'ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 2, "steps": 2})'
    exec(block("python", 2).replace('"w8a8"', short), scope)
    assert stands_in(scope["fast"].unet)
    assert scope["fast"]("a cat", num_inference_steps=2).images[0].size[0] > 8


def test_the_command_lines(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    commands = block("bash").strip().split("\n")
    assert len(commands) >= 7
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "ptq4dm"
        assert main(arguments) == 0, f"{command}: {capsys.readouterr().err}"
    assert (place / "pictures.png").exists() and (place / "results" / "report.html").exists()


def test_every_file_that_the_documents_name_exists():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} names {target}"
