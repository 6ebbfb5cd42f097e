"""The command that fills the paper's table, tried on a tiny random checkpoint in the original layout."""

import sys

import numpy as np
import paper_table
import pytest
import torch
from papers.improved import Settings, random_weights
from PIL import Image

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation import data_statistics
from ptq4dm.evaluation.bootstrap import Statistic
from ptq4dm.evaluation.data_statistics import read_statistics, statistics_of
from ptq4dm.evaluation.features import Features
from ptq4dm.evaluation.frechet import frechet_statistic
from ptq4dm.evaluation.inception import Inception
from ptq4dm.files import read_json

FLAGS = 'repository = "improved-diffusion"\nimage_size = 8\ndiffusion_steps = 40\nnoise_schedule = "cosine"\n'


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The arguments of a quick run on a tiny checkpoint."""
    path = tmp_path / "tiny.pt"
    torch.save(random_weights(Settings(mult=(1,), attention=(1,))), path)
    path.with_suffix(".toml").write_text(FLAGS)
    (tmp_path / "data").mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{index}.png")
    arguments = [str(path), "--quick", "--data", "cifar10", "--reference", str(tmp_path / "data"), "--count", "4",
                 "--replicates", "5", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["paper_table.py", *arguments])
    return tmp_path


def test_an_interrupted_run_goes_on(command, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    draw = paper_table.draw_resumable

    def interrupted(network, pipeline, sampler, *rest):
        if sampler == "ddpm":
            raise KeyboardInterrupt
        return draw(network, pipeline, sampler, *rest)

    monkeypatch.setattr(paper_table, "draw_resumable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        paper_table.main()
    (saved,) = command.glob("paper-table-cifar10-*-quick.json")
    first = read_json(saved)
    assert [row["sampler"] for row in first["rows"]] == ["DDIM-2", "DDIM-3"]
    monkeypatch.setattr(paper_table, "draw_resumable", draw)
    monkeypatch.setattr(paper_table.ptq4dm, "quantize", None)  # what was made is read
    paper_table.main()
    results = read_json(saved)
    assert [row["sampler"] for row in results["rows"]] == ["DDIM-2", "DDIM-3", "DDPM-4"]
    assert results["rows"][:2] == first["rows"]
    assert results["published"]["DDPM-4000"] == [[7.14, 17.09, 9.28], [7.10, 17.02, 9.55]]
    assert all(row["FID"]["int8"] != row["FID"]["float"] > 0 for row in results["rows"])
    assert "the like of FID / sFID / IS on efficientnet" in capsys.readouterr().out


def test_the_published_rows_stand_beside_their_sampler():
    own = {"float": 1.0, "int8": 2.0, "difference": 1.0, "low": None, "high": None}
    rows = [{"sampler": "DDIM-250", "n": 10_000, "FID": own, "sFID": own, "IS": own}]
    text = paper_table.table(rows, "imagenet64", Inception.__new__(Inception))
    assert "21.63 / 17.66 / 14.88" in text and "23.96 / 17.67 / 15.88" in text and "24.92" not in text
    assert "paper" not in paper_table.table(rows, None, Inception.__new__(Inception))


def test_without_inception_only_a_quick_try_is_made(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [argument for argument in sys.argv if argument != "--quick"])
    with pytest.raises(SystemExit):
        paper_table.main()
    assert "--inception is missing" in capsys.readouterr().err


def test_statistics_of_a_file_are_those_of_its_pictures(tmp_path, monkeypatch):
    """A file as guided-diffusion's evaluator writes it, the spatial map with channels last; of a smaller network."""
    monkeypatch.setattr(data_statistics, "SIDE", 3)
    monkeypatch.setattr(data_statistics, "POOLED", 20)
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(40, 7, 3, 3))
    data = Features(rng.normal(size=(40, 20)), maps.reshape(40, -1), np.zeros((40, 2)))
    places = maps.transpose(0, 2, 3, 1).reshape(40, -1)
    np.savez(tmp_path / "data.npz", mu=data.pooled.mean(0), sigma=np.cov(data.pooled, rowvar=False),
             mu_s=places.mean(0), sigma_s=np.cov(places, rowvar=False))  # fmt: skip
    read, fitted = read_statistics(tmp_path / "data.npz"), statistics_of(data, "pictures")
    drawn = rng.normal(size=(30, 63)) + np.arange(63) / 20

    def distance(reference) -> float:
        statistic: Statistic = frechet_statistic(drawn, reference)
        return statistic(np.ones(30))

    assert distance(read.spatial) == pytest.approx(distance(fitted.spatial), rel=1e-6)
    np.savez(tmp_path / "other.npz", arr_0=np.zeros(3))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:999])
    for name, message in (("other.npz", "lacks mu, sigma, mu_s"), ("broken.npz", "get it again")):
        with pytest.raises(EvaluationError, match=message):
            read_statistics(tmp_path / name)
