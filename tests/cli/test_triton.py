"""The Triton backend through the verbs, its kernels in Triton's interpreter: what they draw, and what their results and
the report say of each layer. Times are given, for there is no GPU to take them."""

import functools
import html
import json
import re

import numpy as np
import pytest
import torch
from interpreted import quickly_interpreted
from PIL import Image
from tiny import tiny_pipeline

pytest.importorskip("triton")
import ptq4dm
from ptq4dm.backends.triton_gpu import choice
from ptq4dm.backends.triton_gpu.kernels import launching
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.backends.triton_gpu.layers import TritonLinear
from ptq4dm.backends.triton_gpu.run import TritonBackend, call_in_type
from ptq4dm.backends.triton_gpu.timings import Timing, Timings
from ptq4dm.cli import evaluate as evaluate_verb
from ptq4dm.cli.main import main
from ptq4dm.evaluation import measure
from ptq4dm.files import read_json
from ptq4dm.quantization.layers_qdq import quantized_names

TILE = Settings(64, 64, 32)
SLOW, FAST = Timing(9.125, 3.0625, TILE), Timing(1.25, 2.5, TILE)
"""Of linears, which float does faster, and of convolutions."""


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A float model, and its artifact, of which only the middle block is in INT8: each layer takes its time here."""
    folder = tmp_path_factory.mktemp("triton")
    tiny_pipeline((8,), 8).save_pretrained(folder / "float")
    few = {"min_channels": 1, "float_share": 0.0, "keep_float": ("down_blocks", "up_blocks", "mid_block.resnets.1")}
    short = {"samples": 4, "steps": 2, "batch_size": 4}
    model = ptq4dm.quantize(str(folder / "float"), ptq4dm.load_recipe("w8a8-minmax").replace(calibration=short, **few))
    model.save(folder / "int8")
    return folder


@pytest.fixture
def timed(monkeypatch):
    """Times for every layer that is called, as a GPU would give them: the backend does the rest."""
    seen = []

    def chosen(self, network, layers, example):
        call = call_in_type(network, example)
        seen.append((len(call.args[0]), call.args[0].dtype))
        works, tried = choice.works_of(network, layers, call), lambda *sizes: [TILE]
        return choice.choose(layers, works, Timings(None, {}), None, tried, self.strict, torch.device("cpu"))

    def times(layer, form, *_):
        return SLOW if isinstance(form, TritonLinear) else FAST

    monkeypatch.setattr(TritonBackend, "chosen", chosen)
    monkeypatch.setattr(choice, "measure", times)
    monkeypatch.setattr(launching, "MEASURED", {})
    monkeypatch.setattr(choice, "MEASURED", launching.MEASURED)
    return seen


def told(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out) if "--json" in arguments else out, err


def as_timed(executed, place):
    """Every layer of the artifact, with its choice and both times, once."""
    layers = {row["layer"]: row for row in executed["layers"]}
    assert executed["engine"] == "triton" and len(layers) == len(executed["layers"])
    assert sorted(layers) == sorted(quantized_names(ptq4dm.load(place / "int8").network))
    kinds = {name: row["type"] for name, row in layers.items()}
    assert set(kinds.values()) == {"TritonConv", "Linear"}
    for row in layers.values():
        timing = FAST if row["type"] == "TritonConv" else SLOW
        assert (row["int8_ms"], row["float_ms"], row["tile"]) == (timing.int8_ms, timing.float_ms, TILE.name)
        assert row["int8"] == (timing is FAST) and row["reason"] == ("" if row["int8"] else "float is faster")
    return layers


def test_it_draws_the_pictures_of_the_simulated_network(place, capsys, tmp_path):
    drawn = {}
    for backend in ("triton", "simulated"):
        common = ["--count", 1, "--steps", 2, "--out", tmp_path / f"{backend}.png", "--backend", backend]
        _, err = told(capsys, "sample", place / "int8", *common)
        drawn[backend] = np.asarray(Image.open(tmp_path / f"{backend}.png"), dtype=float)
        assert ("triton ran 11 of 11 quantized layers in INT8" in err) == (backend == "triton"), err
    assert drawn["triton"].std() > 10 and np.abs(drawn["triton"] - drawn["simulated"]).max() <= 3


def test_the_evaluation_and_its_report_tell_of_each_layer(place, capsys, tmp_path, monkeypatch, timed):
    monkeypatch.setattr(evaluate_verb, "evaluate", functools.partial(evaluate_verb.evaluate, speed_rounds=0))
    monkeypatch.setattr("ptq4dm.evaluation.evaluate.find_extractors", lambda *_: ([], []))  # it takes seconds to load
    command = ["evaluate", place / "int8", "--backend", "triton", "--count", 1, "--steps", 2, "--out", tmp_path / "r"]
    told(capsys, *command)
    results = read_json(tmp_path / "r" / "results.json")
    layers = as_timed(results["executed"], place)
    fidelity = results["fidelity"]
    assert fidelity["backend"] == "triton" and 0 < fidelity["call"]["relative_l2_mean"] < 0.1
    assert results["environment"]["triton"] and "--backend triton --out" in results["commands"][1]
    rows = table(tmp_path / "r" / "report.html", "Each layer timed in INT8 and in float")
    assert rows == {
        name: [row["type"], f"{row['int8_ms']:.4f}", f"{row['float_ms']:.4f}", row["tile"], row["reason"]]
        for name, row in layers.items()
    }


def table(page, caption):
    """The rows of a table of a page by the text of their first cell."""
    found = next(item for item in re.findall(r"<table.*?</table>", page.read_text(), re.DOTALL) if caption in item)
    body = re.search(r"<tbody>(.*?)</tbody>", found, re.DOTALL).group(1)
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    cells = [[plain(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]
    return {first: rest for first, *rest in cells}


def plain(markup):
    """What a person reads of it."""
    return html.unescape(re.sub(r"<[^>]*>", "", markup)).strip()


def test_bench_tells_of_each_layer(place, capsys, tmp_path, monkeypatch, timed):
    eager_alone = lambda network, example, watch, rewritten: ({"eager": watch("eager", None)}, [])  # noqa: E731
    monkeypatch.setattr(measure, "float_engines", eager_alone)
    command = ["bench", place / "int8", "--backend", "triton", "--batch", 1, "--rounds", 1]
    data, err = told(capsys, *command, "--out", tmp_path / "b.json", "--json")
    layers = as_timed(data["executed"], place)
    left = [name for name, row in layers.items() if not row["int8"]]
    ran = f"triton ran {len(layers) - len(left)} of {len(layers)} quantized layers in INT8, not {', '.join(left)}\n"
    assert ran in err and read_json(tmp_path / "b.json") == data
    assert [row["engine"] for row in data["call"]["rows"]] == ["eager", "triton"]


def test_a_pipeline_is_cast_before_its_layers_are_chosen(place, timed):
    """So that the float forms that stay are in the pipeline's type, in which its layers are timed."""
    pipeline = ptq4dm.load(place / "int8").to_pipeline("triton", torch_dtype=torch.float16)
    chosen = {row.layer: row for row in pipeline.unet.ptq4dm_layers}
    left = [name for name, row in chosen.items() if not row.int8]
    assert left and {pipeline.unet.get_submodule(name).weight.dtype for name in left} == {torch.float16}
    assert pipeline.unet.dtype == torch.float16 and timed == [(2, torch.float16)]


@pytest.mark.parametrize("verb", ["sample", "evaluate", "bench", "demo"])
def test_without_a_gpu_it_is_one_line(place, capsys, tmp_path, monkeypatch, verb):
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = ["--model", place / "float"] if verb == "demo" else [place / "int8"]
    out = {"sample": "a.png", "bench": "b.json"}.get(verb, "folder")
    command = [verb, *model, "--out", tmp_path / out]
    says = [(["--backend", "triton"], "the triton backend needs an NVIDIA GPU, and torch sees none")]
    if not torch.cuda.device_count():
        says += [(["--device", "cuda"], "device 'cuda' cannot be used here (")]
        says += [(["--backend", "triton", "--device", "cuda"], "the triton backend needs an NVIDIA GPU")]
    for options, words in says:
        assert main([*map(str, command), *options]) == 2
        standard, err = capsys.readouterr()
        assert standard == "" and err.count("\n") == 1 and words in err, err
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
