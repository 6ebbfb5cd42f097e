"""The README's commands run as they stand on tiny networks that bear the names: smaller numbers, one round of timing.
`cli/test_demo.py` puts the built-in model itself through quantizing, INT8, evaluation and the page.
"""

import functools
import json
import shlex

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from papers import improved
from readme import block
from tiny import tiny_unet

import ptq4dm
from ptq4dm.cli import evaluate
from ptq4dm.cli.main import main
from ptq4dm.zoo import zoo

SMALLER = {"--samples 32": "--samples 8", "--steps 10": "--steps 4", "--rounds 3": "--rounds 1"}
PROGRAMS = ("quantize", "sample", "inspect", "evaluate", "bench", "report", "export", "zoo")


@pytest.fixture
def small(tmp_path_factory, monkeypatch):
    """`emoji-32` is found by its name as ever, and is a tiny network."""
    own = tmp_path_factory.mktemp("zoo")
    network = tiny_unet((8,), attention=False)  # few layers: engines take seconds to compile many
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(own / "pipeline")
    (own / "int8").mkdir()
    monkeypatch.setitem(zoo.MODELS, "emoji-32", zoo.ZooModel(own, "a tiny random network", 16, 24))
    return own


def test_the_command_lines(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "evaluate", functools.partial(evaluate.evaluate, speed_rounds=1))
    commands = [shlex.split(line) for line in block("bash", 0, SMALLER).strip().split("\n")]
    assert [command[:2] for command in commands] == [["ptq4dm", program] for program in PROGRAMS]
    for _, *arguments in commands:
        assert main(arguments) == 0, f"{shlex.join(arguments)}: {capsys.readouterr().err}"
    out, err = capsys.readouterr()
    assert err.count("quantized layers in INT8\n") >= 2  # `sample` and `bench` say so
    assert out.splitlines()[-1].startswith(f"emoji-32  {small}")
    assert (tmp_path / "pictures.png").exists() and (tmp_path / "results" / "report.html").exists()


def test_the_command_lines_of_the_papers_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(improved.random_weights(improved.Settings()), "cifar10_uncond_50M_500K.pt")
    own = {"repository": "improved-diffusion", "image_size": 16}
    (tmp_path / "cifar10_uncond_50M_500K.json").write_text(json.dumps(own))  # or it would be refused for its shape
    fewer = {"--recipe w8a8-paper": "--recipe w8a8-paper --samples 4"}
    for line in block("console", 0, fewer).strip().split("\n"):
        program, *arguments = shlex.split(line)
        assert program == "ptq4dm" and main(arguments) == 0, f"{line}: {capsys.readouterr().err}"
    assert ptq4dm.load("cifar10-int8").recipe.attention_products
