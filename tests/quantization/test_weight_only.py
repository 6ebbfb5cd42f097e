"""Layers with 8-bit weights and float inputs: float64 by hand, which layers they are, files, engines and the export."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LDMPipeline, UNet2DModel, VQModel
from safetensors.torch import load_file
from tiny import tiny_pipeline, tiny_unet
from torch import nn
from weight_only_common import ENGINES, RECIPE, WEIGHTS, answer, near, of_time, pictures

import ptq4dm
from ptq4dm.cli.main import main
from ptq4dm.errors import ArtifactError, ModelError
from ptq4dm.quantization.half_layers import half_names
from ptq4dm.quantization.layers import QuantizedLayer, QuantizedLinear
from ptq4dm.quantization.weight_only import (
    FIRST_REASON,
    REASON,
    WeightOnlyLinear,
    has_weight_only_form,
    weight_only_form,
    weight_only_names,
)
from ptq4dm.quantization.weights import quantize_weight
from ptq4dm.report.tables import float_rows

pytestmark = pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")


LAYERS = [
    (nn.Linear(6, 5), (3, 6)),
    (nn.Linear(6, 5, bias=False), (2, 4, 6)),
    (nn.Linear(6, 5), (6,)),
    (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (2, 4, 9, 9)),
    (nn.Conv2d(4, 6, (1, 3), padding="valid"), (2, 4, 9, 9)),
    (nn.Conv3d(4, 6, 2, dilation=2, padding="same"), (2, 4, 5, 6, 7)),
]


@pytest.mark.parametrize(("source", "shape"), LAYERS)
@torch.no_grad()
def test_it_is_the_layer_on_rounded_weights(source, shape):
    """PyTorch's own layer, its weights replaced by the rounded ones, in float64."""
    x = torch.randn(shape)
    before = copy.deepcopy(source)
    layer = weight_only_form(source, "layer")
    integers, scale = quantize_weight(source.weight, portable=False)
    assert torch.equal(layer.weight, integers) and layer.weight.dtype == torch.int8
    oracle = copy.deepcopy(source).double()
    oracle.weight.copy_(integers.double() * scale.double().view(-1, *[1] * (integers.dim() - 1)))
    wanted = oracle(x.double())
    assert torch.equal(layer(x.double()), layer(input=x.double()))
    torch.testing.assert_close(layer(x.double()), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), wanted.float(), rtol=1e-5, atol=1e-6)
    assert float((oracle.weight - source.weight).norm()) < 0.01 * float(source.weight.norm())
    assert all(torch.equal(before.state_dict()[name], tensor) for name, tensor in source.state_dict().items())
    if source.bias is not None:
        assert layer.bias.data_ptr() != source.bias.data_ptr()


def test_what_has_no_such_form():
    circular = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
    for layer in (None, nn.ConvTranspose2d(2, 2, 2), circular, nn.Embedding(2, 2), nn.LayerNorm(2)):
        assert not has_weight_only_form(layer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_casting_keeps_what_it_holds(dtype):
    layer = weight_only_form(nn.Linear(6, 5), "layer")
    held = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert held.keys() == {"weight", "weight_scale", "bias"}
    x = torch.randn(3, 6)
    wanted = layer(x.to(dtype).double())
    layer.to(dtype)
    for name, tensor in layer.state_dict().items():
        assert tensor.dtype == held[name].dtype and torch.equal(tensor, held[name])
    found = layer(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=2 * torch.finfo(dtype).eps + 1e-6, atol=1e-6)


def test_weights_that_are_not_finite_are_refused_by_name():
    source = nn.Linear(4, 4)
    source.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"the weight of time\.linear has NaN"):
        weight_only_form(source, "time.linear")


@pytest.fixture(scope="module", params=["float-out", "qdq"])
def model(request):
    return ptq4dm.quantize(tiny_pipeline(), RECIPE.replace(arithmetic=request.param))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("weight_only") / "int8")


def test_they_are_the_layers_of_time(model):
    first, *names = of_time(tiny_unet())
    assert len(names) > 4 and weight_only_names(model.network) == names
    assert half_names(model.network) == [first] == ["time_embedding.linear_1"]
    reasons = {layer.name: layer.reason for layer in model.plan}
    assert [name for name, reason in reasons.items() if reason == REASON] == names
    assert reasons[first] == FIRST_REASON
    assert not any(layer.quantized for layer in model.plan if layer.name in (first, *names))
    assert isinstance(model.network.mid_block.attentions[0].to_q, QuantizedLinear)


def test_what_reaches_the_network_from_time_is_nearer_to_float(model):
    """The very same for all pictures, so it is what no averaging takes away."""
    off = ptq4dm.quantize(tiny_pipeline(), RECIPE.replace(time_in_float=False)).network
    source, errors = tiny_unet(), {}
    for kind, network in (("in float", model.network), ("in INT8", off)):
        found = [embedded(network, t) for t in range(0, 1000, 50)]
        wanted = [embedded(source, t) for t in range(0, 1000, 50)]
        errors[kind] = float((torch.stack(found) - torch.stack(wanted)).norm() / torch.stack(wanted).norm())
    assert errors["in float"] < 0.6 * errors["in INT8"]


@torch.no_grad()
def embedded(network, t):
    return network.time_embedding(network.time_proj(torch.tensor([t])))


def test_an_artifact_keeps_them_to_the_bit(model, folder, tmp_path):
    wanted, names = answer(model.network), weight_only_names(model.network)
    tensors = load_file(folder / "unet" / WEIGHTS)
    assert all(tensors[f"{name}.weight"].dtype == torch.int8 for name in names)
    loaded = ptq4dm.load(folder)
    assert torch.equal(answer(loaded.network), wanted) and loaded.plan == model.plan and loaded.recipe == model.recipe
    network = UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert torch.equal(answer(network), wanted) and weight_only_names(network) == names
    network.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / WEIGHTS)
    assert again.keys() == tensors.keys() and all(torch.equal(again[key], tensors[key]) for key in tensors)
    header = json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]
    assert header["weight_only"] == names and not set(names) & set(header["layers"])
    assert torch.equal(answer(UNet2DModel.from_pretrained(tmp_path / "again")), wanted)
    half = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16).unet.state_dict()
    for key in (f"{name}.{part}" for name in names for part in ("weight", "weight_scale", "bias")):
        assert half[key].dtype == tensors[key].dtype and torch.equal(half[key], tensors[key])


def test_the_size_is_that_of_8_bits(model, folder):
    network = model.network
    saved = sum(tensor.nbytes for tensor in load_file(folder / "unet" / WEIGHTS).values())
    assert model.int8_bytes == saved
    held = sum(tensor.nbytes for name in weight_only_names(network) for tensor in network.get_submodule(name).buffers())
    whole = sum(network.get_submodule(name).weight.numel() for name in weight_only_names(network))
    assert held < 1.5 * whole


def test_inspect_and_the_report_name_them(model, folder, capsys):
    names = weight_only_names(model.network)
    assert main(["inspect", str(folder), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    shown = {layer["name"]: layer for layer in data["plan"]}
    assert data["weight_only"] == len(names)
    for name in names:
        assert (shown[name]["weight_bits"], shown[name]["reason"], shown[name]["input_scale"]) == (8, REASON, None)
    for name, layer in shown.items():
        bits = 16 if name == "time_embedding.linear_1" else 8 if layer["quantized"] or name in names else 32
        assert layer["weight_bits"] == bits
    assert data["quantized"] == sum(layer["quantized"] for layer in data["plan"])
    assert data["int8_bytes"] == model.int8_bytes
    assert main(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [names[0]]]
    assert line.split()[1:5] == ["Linear", "float", "8", "bit"] and line.rstrip().endswith(REASON)
    assert f"\n{len(names)} more with weights in 8 bits and inputs in float\n" in text
    (row,) = [row for row in float_rows(data["plan"]) if row[0] == REASON]
    assert row[1:3] == [str(len(names)), "Linear"] and row[3].startswith(names[0])


def test_engines_run_them_in_float(model):
    engine = ENGINES[model.recipe.arithmetic]
    pytest.importorskip(engine)
    module = model.to_module(engine)
    assert near(answer(module), model.network)
    ran = {layer.layer for layer in module.ptq4dm_engine.executed}
    assert ran and not ran & set(weight_only_names(model.network))


def test_the_export_means_the_same(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = model.export_onnx(tmp_path / "unet.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x, t = pictures(), 400
    names = [item.name for item in session.get_inputs()]
    shapes = {item.name: item.shape for item in session.get_inputs()}
    steps = {name: np.full([len(x)] * len(shape), t, np.int64) for name, shape in shapes.items() if len(shape) != 4}
    fed = {name: steps.get(name, x.numpy()) for name in names}
    assert near(torch.from_numpy(session.run(None, fed)[0]), model.network)


def damaged(folder, place, **changes):
    """A copy of an artifact whose header, in both files, says something else."""
    shutil.copytree(folder, place)
    for path in ("ptq4dm.json", "unet/config.json"):
        facts = json.loads((place / path).read_text())
        (facts["denoisers"]["unet"] if path == "ptq4dm.json" else facts["quantization_config"]).update(changes)
        (place / path).write_text(json.dumps(facts))
    return place


@pytest.mark.parametrize(
    ("names", "by_ptq4dm", "by_diffusers"),
    [
        (["conv_norm_out"], "no layer 'conv_norm_out' for 8-bit weights", "no layer 'conv_norm_out' for 8-bit weights"),
        (["conv_in"], "conv_in.weight_scale", "conv_in.weight_scale"),
        (["nowhere"], "no layer 'nowhere'", "no layer 'nowhere'"),
        ([""], "no layer ''", "no layer ''"),
        (None, "is damaged", "weight_only = None is no list of names"),
        (5, "is damaged", "weight_only = 5 is no list of names"),
        ([1], "no layer 1", r"weight_only = \[1\] is no list of names"),
        ([], "weight_scale", "weight_scale"),
    ],
)
def test_a_damaged_header_is_refused_in_one_line(folder, tmp_path, names, by_ptq4dm, by_diffusers):
    place = damaged(folder, tmp_path / "damaged", weight_only=names)
    for opened, message in (
        (lambda: ptq4dm.load(place), by_ptq4dm),
        (lambda: UNet2DModel.from_pretrained(place, subfolder="unet"), by_diffusers),
    ):
        with pytest.raises(ArtifactError, match=message) as caught:
            opened()
        assert "\n" not in str(caught.value)


def test_the_recipe_can_leave_both_out():
    """No layer of its own kind, and the integers of rounding alone."""
    plain = RECIPE.replace(time_in_float=False, weights={"error_feedback": False, "weighted": False})
    network = ptq4dm.quantize(tiny_pipeline(), plain).network
    source = dict(tiny_unet().named_modules())
    assert not weight_only_names(network)
    assert all(isinstance(network.get_submodule(name), QuantizedLinear) for name in of_time(network))
    for name, layer in network.named_modules():
        if isinstance(layer, QuantizedLayer):
            weight = source[name].weight * layer.smoothing.view(-1, *[1] * (layer.weight.dim() - 2))
            assert torch.equal(layer.weight, quantize_weight(weight, True, None)[0]), name


@pytest.mark.parametrize("preset", ["w8a8", "w8a8-fast", "w8a8-minmax"])
def test_presets(preset):
    recipe = ptq4dm.load_recipe(preset)
    assert recipe.time_in_float == bool(recipe.float_share) == (preset == "w8a8")
    assert recipe.weights.error_feedback == recipe.smoothing.enabled == (preset != "w8a8-minmax")


def test_patterns_come_first():
    recipe = RECIPE.replace(keep_float=["time_embedding"])
    model = ptq4dm.quantize(tiny_pipeline(), recipe)
    assert type(model.network.time_embedding.linear_1) is nn.Linear
    first, *others = [name for name in of_time(tiny_unet()) if name.endswith("proj")]
    assert weight_only_names(model.network) == others and half_names(model.network) == [first]


@pytest.fixture(scope="module")
def conditional():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqvae = VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=3, num_vq_embeddings=8)
    return LDMPipeline(vqvae.eval(), tiny_unet(), DDIMScheduler())


def test_pipelines_at_work_have_them_too(conditional, tmp_path):
    """Without feedback: their calls are not kept."""
    model = ptq4dm.quantize(conditional, RECIPE, conditions=[{}])
    names, source = weight_only_names(model.network), tiny_unet()
    assert names == of_time(source)[1:]
    for name in names:
        layer = model.network.get_submodule(name)
        assert torch.equal(layer.weight, quantize_weight(source.get_submodule(name).weight, False)[0])
        assert torch.equal(layer.bias, source.get_submodule(name).bias)
    assert torch.equal(answer(ptq4dm.load(model.save(tmp_path / "ldm")).network), answer(model.network))
    plain = ptq4dm.quantize(conditional, RECIPE.replace(time_in_float=False), conditions=[{}])
    assert not weight_only_names(plain.network)


class Tied(nn.Module):
    """Time through one layer under two names, beside a picture's layer; a norm in front of both kinds."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(16, 16)
        self.first, self.picture, self.norm = nn.Linear(16, 16), nn.Linear(16, 16), nn.LayerNorm(16)
        self.again = self.first

    def forward(self, x, t):
        angles = t.float()[:, None] * torch.logspace(-3, 0, 16)
        h = self.norm(self.embedding(angles.sin()))
        return self.picture(x) + self.first(h) + self.again(h)


def tied_network(recipe, outlier=1.0):
    """Quantized through `quantize_network`, with calls along time as a pipeline has them."""
    from ptq4dm.quantization.network import quantize_network

    torch.manual_seed(0)
    network = Tied().eval().requires_grad_(False)
    network.norm.weight[3] *= outlier
    x = [torch.randn(4, 16) for _ in range(6)]
    times = [torch.full((4,), float(t)) for t in (0, 199, 400, 600, 800, 999)]
    calls = [(ptq4dm.Call((a, t)), t) for a, t in zip(x, times, strict=True)]
    along = [(ptq4dm.Call((b, t)), t) for b, t in zip(x[::-1], times, strict=True)]
    return network, quantize_network(network, calls, (0.0, 1000.0), recipe, False, along)[0]


def test_tied_layers_stay_tied():
    network, denoiser = tied_network(RECIPE)
    assert denoiser.network.again is denoiser.network.first and network.again is network.first
    assert weight_only_names(denoiser.network) == ["first"]
    assert isinstance(denoiser.network.first, WeightOnlyLinear)
    assert isinstance(denoiser.network.picture, QuantizedLinear)
    call = denoiser.example
    wanted = network(*call.args)
    assert float((denoiser.network(*call.args) - wanted).norm() / wanted.norm()) < 0.02


def test_ranges_are_shown_of_layers_that_round_their_inputs():
    """The layers of time move most, but nothing of theirs is rounded to the range that would be drawn."""
    _, denoiser = tied_network(RECIPE)
    assert [row["layer"] for row in denoiser.facts["activation_ranges"]] == ["picture"]


def test_smoothing_is_not_folded_in_front_of_them():
    recipe = RECIPE.replace(smoothing={"threshold": 2.0})
    _, plain = tied_network(recipe.replace(time_in_float=False), outlier=200.0)
    assert plain.facts["folded"] == {"norm": ["first"]}
    network, denoiser = tied_network(recipe, outlier=200.0)
    assert "norm" not in denoiser.facts["folded"] and "first" not in denoiser.facts["smoothed"]
    assert torch.equal(denoiser.network.norm.weight, network.norm.weight)
    wanted = network(*denoiser.example.args)
    assert float((denoiser.network(*denoiser.example.args) - wanted).norm() / wanted.norm()) < 0.1
