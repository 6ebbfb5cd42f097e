"""Where the verbs put networks: on the device of the backend, before it prepares them. The device is pretended
(`elsewhere`), and so is its backend, which notes what it is given."""

import copy
import functools
import json

import pytest
import torch
from elsewhere import ELSEWHERE, Far, elsewhere
from tiny import tiny_pipeline

import ptq4dm
from ptq4dm.backends.registry import BACKENDS
from ptq4dm.cli import demo
from ptq4dm.cli import evaluate as evaluate_verb
from ptq4dm.cli.main import main
from ptq4dm.evaluation import measure
from ptq4dm.files import read_json
from ptq4dm.pipelines.denoiser import placement
from ptq4dm.pipelines.pipeline import open_pipeline

HERE = torch.device("cpu")
SHORT = {"samples": 4, "steps": 2, "batch_size": 4}


class Noting:
    """A backend that gives a network back as it is, notes where it was given it, and what it was called with."""

    name, arithmetic = "noting", "float-out"

    def __init__(self, device):
        self.device, self.prepared, self.called, self.batches = device, [], set(), set()

    def unavailable(self):
        return None

    def prepare(self, network, example):
        self.prepared.append(placement(network))
        self.batches.add(len(example.args[0]))
        network = copy.copy(network)  # as a backend gives one of its own
        forward = network.forward

        def noted(sample, timestep, **options):
            self.called.add((sample.device, sample.dtype, isinstance(sample, Far)))
            return forward(sample, timestep, **options)

        network.forward = noted
        return network


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A float model, and its artifact."""
    folder = tmp_path_factory.mktemp("places")
    tiny_pipeline((8,), 8).save_pretrained(folder / "float")
    few = {"min_channels": 1, "float_share": 0.0, "keep_float": ("down_blocks", "up_blocks")}
    recipe = ptq4dm.load_recipe("w8a8-minmax").replace(calibration=SHORT, **few)
    ptq4dm.quantize(str(folder / "float"), recipe).save(folder / "int8")
    return folder


@pytest.fixture(scope="module")
def opened(place):
    """Both, opened: diffusers does that with the help of the real device `meta`."""
    return open_pipeline(str(place / "float")), ptq4dm.load(place / "int8")


@pytest.fixture
def noting(opened, monkeypatch):
    """The backend, of another device unless told otherwise; beside it, eager PyTorch alone is timed."""
    backend, (pipeline, model) = Noting(ELSEWHERE.type), opened
    for module in ("bench", "demo", "evaluate", "subject"):
        monkeypatch.setattr(f"ptq4dm.cli.{module}.open_pipeline", lambda name: pipeline)
        monkeypatch.setattr(f"ptq4dm.cli.{module}.load", lambda folder: model, raising=False)
    monkeypatch.setitem(BACKENDS, "noting", backend)
    eager_alone = lambda network, example, watch, rewritten: ({"eager": watch("eager", None)}, [])  # noqa: E731
    monkeypatch.setattr(measure, "float_engines", eager_alone)
    monkeypatch.setattr(evaluate_verb, "evaluate", functools.partial(evaluate_verb.evaluate, speed_rounds=0))
    monkeypatch.setattr(evaluate_verb, "build_report", lambda folder: folder)
    monkeypatch.setattr("ptq4dm.evaluation.evaluate.find_extractors", lambda *_: ([], []))  # it takes seconds to load
    with elsewhere():
        yield backend


def told(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out), err


def command(place, tmp_path, verb):
    rest = {
        "sample": ["--count", 3, "--steps", 2, "--out", tmp_path / "a.png"],
        "evaluate": ["--count", 1, "--steps", 2, "--out", tmp_path / "results"],
        "bench": ["--batch", 3, "--rounds", 1],
    }
    return [verb, place / "int8", "--json", *rest[verb]]


@pytest.mark.parametrize("verb", ["sample", "evaluate", "bench"])
def test_a_network_goes_to_the_device_of_its_backend_before_that_prepares_it(place, capsys, tmp_path, noting, verb):
    data, _ = told(capsys, *command(place, tmp_path, verb), "--backend", "noting")
    assert set(noting.prepared) == {(ELSEWHERE, torch.float32)}
    assert noting.called == {(ELSEWHERE, torch.float32, True)}  # and runs there
    assert noting.batches == {8 if verb == "evaluate" else 3}  # as many pictures as a call has, in which it is timed
    if verb != "sample":
        wanted = "PyTorch (the float network, the simulated one, noting) ran on meta, the engines on the CPU"
        assert wanted in data["notes"]
    if verb == "evaluate":  # as if no device had been pretended
        again = "--backend noting --out"
        assert again in data["commands"][1] and data["fidelity"]["backend"] == "noting"
        assert 0 < data["fidelity"]["call"]["relative_l2_mean"] < 0.1
        assert data["fidelity"]["call"]["relative_l2_mean"] == pytest.approx(
            data["fidelity"]["simulated"]["relative_l2_mean"], rel=1e-6
        )
    if verb == "bench":
        assert [row["engine"] for row in data["call"]["rows"]] == ["eager", "noting"]
        assert data["call"]["predicted_limit"] is None


@pytest.mark.parametrize("verb", ["sample", "evaluate", "bench"])
def test_it_is_cast_where_a_type_is_named(place, capsys, tmp_path, noting, verb):
    placed = ["--backend", "noting", "--device", "meta", "--dtype", "bfloat16"]
    data, _ = told(capsys, *command(place, tmp_path, verb), *placed)
    assert set(noting.prepared) == {(ELSEWHERE, torch.bfloat16)}
    assert noting.called == {(ELSEWHERE, torch.bfloat16, True)}
    if verb == "evaluate":  # against the float model in float32, and the simulated network as it is defined
        rounded, defined = (data["fidelity"][key]["relative_l2_mean"] for key in ("call", "simulated"))
        assert 0 < defined < rounded < 0.1
        assert "--backend noting --device meta --dtype bfloat16 --out" in data["commands"][1]
        assert "The INT8 network and the float one that it is timed beside computed in bfloat16" in data["notes"]
    if verb == "bench":
        assert [(row["engine"], row["precision"]) for row in data["call"]["rows"]] == [
            ("eager", "BF16"), ("noting", "INT8")]  # fmt: skip
        assert data["call"]["ratios"][0]["name"] == "against diffusers eager in BF16"


@pytest.mark.parametrize("verb", ["sample", "evaluate", "bench"])
def test_an_engine_of_the_cpu_stays_there_and_says_so(place, capsys, tmp_path, noting, verb):
    noting.device = "cpu"
    data, err = told(capsys, *command(place, tmp_path, verb), "--backend", "noting", "--device", "meta")
    assert set(noting.prepared) == {(HERE, torch.float32)} and noting.called == {(HERE, torch.float32, False)}
    if verb == "sample":
        assert "noting computes on the CPU, so device 'meta' was not used\n" in err
    else:
        assert "PyTorch (the float network, the simulated one) ran on meta, the engines on the CPU" in data["notes"]


def test_auto_chooses_among_the_backends_of_the_device(place, capsys, tmp_path, noting):
    """OpenVINO, which cannot run there, is passed over; the simulated network and the pretended backend are timed."""
    noting.device = "any"
    data, err = told(capsys, *command(place, tmp_path, "sample"), "--device", "meta")
    assert data["backend"] in ("simulated", "noting") and noting.prepared == [(ELSEWHERE, torch.float32)]
    assert "noting: " in err and "simulated: " in err and "openvino: the network is on meta" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--backend", "noting", "--device", "cpu"], "noting computes on meta, and the device is 'cpu': name meta"),
        (["--backend", "openvino", "--dtype", "float16"], "openvino computes in float32, and torch_dtype = torch.floa"),
        (["--backend", "noting", "--device", "warp9"], "device 'warp9' cannot be used here"),
    ],
)
@pytest.mark.parametrize("verb", ["sample", "evaluate", "bench"])
def test_what_does_not_go_together_is_one_line(place, capsys, tmp_path, noting, verb, options, says):
    assert main([str(word) for word in (*command(place, tmp_path, verb), *options)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().split("\n")) == 1 and says in err
    assert list(tmp_path.iterdir()) == [] and noting.prepared == []


@pytest.mark.parametrize(("device", "wanted"), [(ELSEWHERE.type, ELSEWHERE), ("cpu", HERE)])
def test_the_demo_quantizes_where_its_backend_computes(place, opened, tmp_path, monkeypatch, noting, device, wanted):
    noting.device, model, seen = device, opened[1], {}

    def quantize(pipeline, recipe, **options):
        seen["quantized on"] = placement(pipeline.denoiser)[0]
        return model

    monkeypatch.setattr(demo.workflow, "quantize", quantize)
    monkeypatch.setattr(demo, "evaluate", lambda *args, **options: seen.update(options))
    monkeypatch.setattr(demo, "build_report", lambda *args: None)
    words = [
        "demo",
        "--model",
        place / "float",
        "--out",
        tmp_path / "demo",
        "--backend",
        "noting",
        "--dtype",
        "float16",
    ]
    assert main([*map(str, words), "--json"]) == 0
    assert seen["quantized on"] == wanted
    assert (seen["backend"], seen["device"], seen["torch_dtype"]) == ("noting", None, torch.float16)
    assert read_json(tmp_path / "demo" / "int8" / "ptq4dm.json")["pipeline"]
