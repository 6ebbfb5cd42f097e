"""`ptq4dm demo` on the built-in model to its end, with fewer samples, pictures, steps and rounds: what its page says is
what the artifact beside it does."""

import base64
import functools
import html
import io
import re
import shlex

import numpy as np
import pytest
from PIL import Image

import ptq4dm
from ptq4dm.cli import demo
from ptq4dm.cli.main import build_parser, main
from ptq4dm.files import read_json, read_tensors
from ptq4dm.pipelines.sampling import sample

COUNT, STEPS = 2, 3
FEWER = """
float_share = 0.0
time_in_float = false
[calibration]
samples = 5
steps = 3
[weights]
error_feedback = false
[smoothing]
enabled = false
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The demo's folder, of a run from an empty one."""
    pytest.importorskip("openvino")
    here = tmp_path_factory.mktemp("demo")
    (here / "fewer.toml").write_text(FEWER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(demo, "evaluate", functools.partial(demo.evaluate, speed_rounds=1))
        fewer = ["--recipe", "fewer.toml", "--count", str(COUNT), "--steps", str(STEPS), "--backend", "openvino"]
        assert main(["demo", "--out", "demo", *fewer]) == 0
    return here / "demo"


@pytest.fixture(scope="module")
def page(place):
    return (place / "report.html").read_text()


def test_its_page_is_drawn_again_from_its_folder(place, page):
    (place / "report.html").unlink()
    assert main(["report", str(place)]) == 0
    assert (place / "report.html").read_text() == page


@pytest.fixture(scope="module")
def words(page):
    """What a person reads of it."""
    plain = re.sub(r"<(script|style)\b.*?</\1>|<wbr>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", plain)).split())


@pytest.fixture(scope="module")
def results(place):
    return read_json(place / "results" / "results.json")


def test_it_says_which_model_and_how_it_was_calibrated(words, results):
    assert "emoji-32 in INT8" in words and "recipe fewer" in words
    assert "5 samples" in words and results["calibration"]["samples"] == 5
    assert f"walk {STEPS} steps with ddim" in words


def test_its_pictures_are_those_of_the_model_and_of_the_artifact(place, page):
    """Drawn again from the saved artifact."""
    shown = [
        Image.open(io.BytesIO(base64.b64decode(text))) for text in re.findall(r"data:image/png;base64,([^\"]+)", page)
    ]
    raw, _ = read_tensors(place / "results" / "pictures.safetensors")
    model, pipeline = ptq4dm.load(place / "int8"), ptq4dm.open_pipeline("emoji-32")
    seeds = read_json(place / "results" / "results.json")["pictures"]["seeds"]
    sheets = [picture for picture in shown if picture.size == (COUNT * 4 * 32, 4 * 32)]  # enlarged smoothly
    assert len(sheets) == 2
    cases = ((pipeline.denoiser, "float"), (model.to_module("openvino"), "int8"))
    for index, (network, name) in enumerate(cases):
        drawn = sample(network, "ddim", pipeline.scheduler.config, (3, 32, 32), seeds, STEPS, 2, shown=False)
        assert float((raw[name] - drawn).square().mean().sqrt()) < 1e-5
        sheet = np.concatenate([(255 * raw[name][i]).round().permute(1, 2, 0).numpy() for i in range(COUNT)], 1)
        off = [float(np.abs(same_size(picture, sheet) - sheet).mean()) for picture in sheets]
        assert off[index] < 3 and off[index] == min(off), name


def same_size(picture, sheet):
    """The picture (enlarged) as an array of the sheet's size."""
    return np.asarray(picture.convert("RGB").resize(sheet.shape[1::-1], Image.Resampling.BOX), dtype=np.float64)


def test_its_figures_are_those_measured(words, results, place):
    call, pictures = results["fidelity"]["call"], results["fidelity"]["pictures"]
    assert f"{100 * call['relative_l2_mean']:.3g}"[:4] in words and f"{call['psnr_mean']:.1f} dB" in words
    assert f"{pictures['psnr_mean']:.1f} dB" in words
    sizes = [sum(t.numel() * t.element_size() for t in network.state_dict().values()) for network in
             (ptq4dm.open_pipeline("emoji-32").denoiser, ptq4dm.load(place / "int8").network)]  # fmt: skip
    assert results["size"]["float_bytes"] == sizes[0] and f"{results['size']['ratio']:.2f}×" in words
    fastest = next(ratio for ratio in results["speed"]["ratios"] if ratio["fastest_float"])
    assert f"{fastest['value']:.2f}×" in words
    layers = sum(layer["quantized"] for layer in results["plan"])
    assert layers > 60 and f"{layers} of {layers} quantized layers multiplied integers" in words


def test_it_shows_why_and_how_to_repeat_it(page, words, results):
    assert results["activation_ranges"] and page.count("<svg") > 4
    for layer in results["plan"]:
        if not layer["quantized"]:
            assert layer["name"] in words and layer["reason"] in words
    for command in results["commands"]:
        assert command in words
        assert build_parser().parse_args(shlex.split(command)[1:]).verb in ("quantize", "evaluate")
    assert results["environment"]["processor"] in words
