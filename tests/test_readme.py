"""The README's five lines run as they stand, on a tiny pipeline of one's own and few samples."""

import re

import pytest
from families import FAMILIES
from readme import ROOT, block
from tiny import tiny_pipeline

from ptq4dm.backends.registry import BACKENDS
from ptq4dm.backends.stand_in import stands_in

TINY = {'ptq4dm.open_pipeline("emoji-32").source': "pipeline_of_ones_own"}
FEW = {'"w8a8-quick"': 'ptq4dm.load_recipe("w8a8-quick").replace(calibration={"samples": 8})'}


@pytest.fixture(autouse=True)
def engines_only(monkeypatch):
    """`auto` takes the fastest: of networks this small, on a busy machine, now and then the simulated one."""
    others = {name: backend for name, backend in BACKENDS.items() if name != "simulated"}
    monkeypatch.setattr("ptq4dm.backends.registry.BACKENDS", others)  # put back in its place, which errors list it at


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_the_five_lines_of_python(place, monkeypatch):
    monkeypatch.chdir(place)
    scope = {"pipeline_of_ones_own": tiny_pipeline()}
    exec(block("python", 0, TINY | FEW), scope)
    pictures = scope["fast"](batch_size=1, num_inference_steps=2).images
    assert pictures[0].size == (16, 16)
    assert scope["ptq4dm"].load("emoji-int8").plan == scope["model"].plan


@pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")
def test_loading_by_diffusers(place, monkeypatch):
    monkeypatch.chdir(place)
    scope = {}
    exec(block("python", 1), scope)
    assert stands_in(scope["pipe"].unet)
    assert scope["pipe"](batch_size=1, num_inference_steps=2).images[0].size == (16, 16)


def test_any_pipeline():
    scope = {"pipeline": FAMILIES["stable-diffusion"].build()}
    short = 'ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 2, "steps": 2})'
    exec(block("python", 2, {'"w8a8"': short}), scope)
    assert stands_in(scope["fast"].unet)
    assert scope["fast"]("a cat", num_inference_steps=2).images[0].size[0] > 8


def test_every_file_that_the_documents_name_exists():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} names {target}"
