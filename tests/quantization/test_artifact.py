"""The artifact: what is saved comes back to the bit; what is damaged, foreign or newer is refused in one line."""

import json
from contextlib import nullcontext

import diffusers
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from tiny import tiny_pipeline
from torch import nn

import ptq4dm
from ptq4dm.cli.main import main
from ptq4dm.errors import ArtifactError, BackendError
from ptq4dm.integrations.config import PTQ4DMConfig
from ptq4dm.integrations.quantizer import told
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLinear
from ptq4dm.quantization.quantized_model import tensor_bytes
from ptq4dm.registration import TELLING

QUICK = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 6, "steps": 4, "batch_size": 6})


@pytest.fixture(scope="module")
def model():
    return ptq4dm.quantize(tiny_pipeline(), QUICK)


@pytest.fixture()
def folder(model, tmp_path):
    return model.save(tmp_path / "artifact")


def call(network):
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(x_t, torch.tensor([3, 700])).sample


def test_what_is_saved_comes_back_to_the_bit(model, folder):
    loaded = ptq4dm.load(folder)
    assert torch.equal(call(loaded.network), call(model.network))
    assert loaded.plan == model.plan and loaded.recipe == model.recipe
    assert loaded.facts == json.loads(json.dumps(model.facts))
    again = loaded.save(folder.with_name("again"))
    for file in ("ptq4dm.json", "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        assert (again / file).read_bytes() == (folder / file).read_bytes(), file
    weights = "unet/diffusion_pytorch_model.safetensors"  # its header's order of keys is the library's affair
    old, new = load_file(folder / weights), load_file(again / weights)
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


def test_the_folder_is_a_diffusers_pipeline_with_int8_weights(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline" and index["unet"] == ["diffusers", "UNet2DModel"]
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == TELLING
    assert config["quantization_config"]["format_version"] == 2
    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    layers = config["quantization_config"]["layers"]
    assert layers and all(tensors[f"{name}.weight"].dtype == torch.int8 for name in layers)
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.config.num_train_timesteps == 1000


def test_a_pipeline_takes_no_module(folder):
    with pytest.raises(ArtifactError, match="holds a pipeline, which needs no module"):
        ptq4dm.load(folder, module=nn.Linear(2, 2))


@pytest.mark.parametrize("backend", [5, None, nn.Linear(2, 2), "cuda"])
def test_a_backend_that_is_none(model, backend):
    with pytest.raises(BackendError, match=r"no backend .*: accepted are auto, simulated, openvino"):
        model.to_module(backend)


def test_the_place_of_the_work_may_be_text(tmp_path):
    ptq4dm.quantize(tiny_pipeline(), QUICK, work=str(tmp_path))
    assert (tmp_path / "calibration_set.safetensors").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"calibration_set": "set.safetensors"}, r"calibration_set is a str: give ptq4dm\.CalibrationSet\.load"),
        ({"pictures": [1.0]}, r"pictures are a list: give a tensor \(n, channels"),
    ],
)
def test_calibration_data_of_another_type(given, message):
    recipe = QUICK.replace(calibration={"source": "pictures"})
    with pytest.raises(ptq4dm.errors.CalibrationError, match=message):
        ptq4dm.quantize(tiny_pipeline(), recipe, **given)


def test_the_float_pipeline_is_left_as_it_was():
    pipe = tiny_pipeline()
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    network = pipe.unet
    ptq4dm.quantize(pipe, QUICK)
    assert pipe.unet is network
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.unet.state_dict().items())


@pytest.mark.parametrize(("shape", "least"), [("ddpm-cifar10", 3.9), ("emoji-32", 3.8)])
def test_size(shape, least):
    """INT8 weights and float rest of the two shapes that the README names."""
    cifar = dict(
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    emoji = dict(
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    network = UNet2DModel(sample_size=32, **(cifar if shape == "ddpm-cifar10" else emoji))
    float_bytes = tensor_bytes(network)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            owner, _, attribute = name.rpartition(".")
            kind = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedConv
            setattr(network.get_submodule(owner), attribute, kind(layer))
    assert float_bytes / tensor_bytes(network) >= least


def test_truncated_weights(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="is damaged or no safetensors file"):
        ptq4dm.load(folder)


def test_tampered_weights(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="is not what was saved"):
        ptq4dm.load(folder)


def test_weights_of_somebody_else(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(ArtifactError, match="is not what was saved"):
        ptq4dm.load(folder)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_denoiser(folder, **changes):
    facts = json.loads((folder / "ptq4dm.json").read_text())
    edit(folder / "ptq4dm.json", denoisers={"unet": {**facts["denoisers"]["unet"], **changes}})


def test_a_newer_format(folder):
    edit(folder / "ptq4dm.json", format_version=99)
    with pytest.raises(ArtifactError, match="format_version = 99, this ptq4dm reads 2 and 3: pip install -U ptq4dm"):
        ptq4dm.load(folder)


def test_an_older_format(folder):
    edit(folder / "ptq4dm.json", format_version=1)
    with pytest.raises(ArtifactError, match="format_version = 1, this ptq4dm reads 2 and 3: quantize the model again"):
        ptq4dm.load(folder)


@pytest.mark.parametrize("version", [0, "1", None])
def test_a_format_that_is_no_version(folder, version):
    edit(folder / "ptq4dm.json", format_version=version)
    with pytest.raises(ArtifactError, match="is no version"):
        ptq4dm.load(folder)


def test_an_artifact_of_this_format_without_later_keys(tmp_path):
    """As the first ptq4dm of format 2 wrote them: no layers in float16 or with 8-bit weights only, no smoothing, none
    left out as sensitive, weights rounded without feedback."""
    left_out = {"smoothing": {"enabled": False}, "weights": {"error_feedback": False}}
    plain = QUICK.replace(float_share=0.0, time_in_float=False, **left_out)
    model = ptq4dm.quantize(tiny_pipeline(), plain)
    folder = model.save(tmp_path / "artifact")
    facts = json.loads((folder / "ptq4dm.json").read_text())
    del facts["recipe"]["float_share"], facts["recipe"]["smoothing"], facts["recipe"]["time_in_float"]
    del facts["recipe"]["weights"]["error_feedback"]
    for key in ("half", "weight_only", "shared", "fused"):
        del facts["denoisers"]["unet"][key]
    del facts["fused_parts"]
    for key in ("smoothed", "folded", "time_axis"):
        del facts["denoisers"]["unet"]["facts"][key]
    (folder / "ptq4dm.json").write_text(json.dumps(facts))
    settings = json.loads((folder / "unet" / "config.json").read_text())
    header = settings["quantization_config"]
    del header["time_axis"]
    (folder / "unet" / "config.json").write_text(json.dumps(settings))
    assert set(header) == {"quant_method", "format_version", "arithmetic", "layers"}
    loaded = ptq4dm.load(folder)
    assert torch.equal(call(loaded.network), call(model.network))
    assert loaded.recipe == model.recipe == plain
    assert main(["inspect", str(folder)]) == 0
    config = PTQ4DMConfig(calibrated=folder)
    with pytest.warns(ptq4dm.errors.SimulatedWarning) if "simulated" not in told else nullcontext():
        tiny_pipeline().unet.save_pretrained(tmp_path / "float")
        again = UNet2DModel.from_pretrained(tmp_path / "float", quantization_config=config)
        opened = UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert torch.equal(call(opened), call(model.network))
    assert 0 < (call(again) - call(model.network)).norm() < 0.1 * call(model.network).norm()


def test_layers_of_another_network(folder):
    edit_denoiser(folder, layers=["encoder.0"])
    with pytest.raises(ArtifactError, match=r"has no layer 'encoder\.0'"):
        ptq4dm.load(folder)


def test_folders_that_are_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="no folder"):
        ptq4dm.load(tmp_path / "none")
    tiny_pipeline().save_pretrained(tmp_path / "float")
    with pytest.raises(ArtifactError, match=r"has no ptq4dm.json, so it is no quantized model"):
        ptq4dm.load(tmp_path / "float")


def test_a_float_verb_refuses_an_artifact(folder):
    with pytest.raises(ptq4dm.PTQ4DMError, match=r"ptq4dm\.load"):
        ptq4dm.open_pipeline(folder)


class Score(nn.Module):
    """A score network with an argument of its own name."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Conv1d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 2, 1)
        )

    def forward(self, x, *, sigma):
        return self.net(torch.cat([x, sigma.log()[:, None, None].expand(-1, 1, x.shape[2])], dim=1))


def test_a_bare_module_is_quantized_saved_and_loaded(tmp_path):
    score = Score().eval()
    generator = torch.Generator().manual_seed(3)
    batches = [
        ((torch.randn(4, 2, 9, generator=generator) * s,), {"sigma": torch.full((4,), s)}) for s in (0.1, 1.0, 5.0)
    ]
    model = ptq4dm.quantize_module(score, batches, timestep="sigma")
    x, sigma = torch.randn(5, 2, 9, generator=generator), torch.full((5,), 1.0)
    fast = model.to_module("simulated")
    with torch.no_grad():
        expected, got = score(x, sigma=sigma), fast(x, sigma=sigma)
    assert 0 < (got - expected).norm() / expected.norm() < 0.05
    folder = model.save(tmp_path / "bare")
    loaded = ptq4dm.load(folder, module=Score(seed=9).eval())
    with torch.no_grad():
        assert torch.equal(loaded.network(x, sigma=sigma), got)
    with pytest.raises(ArtifactError, match="holds a bare module"):
        ptq4dm.load(folder)
    with pytest.raises(BackendError, match=r"an export needs a call of Score .* example=ptq4dm\.Call"):
        loaded.export_onnx(tmp_path / "a")
    late = loaded.to_module()  # without an example the backend is chosen, and compiled, at the first call
    assert late.ptq4dm_backend == "auto"
    torch.testing.assert_close(late(x, sigma=sigma), got, rtol=1e-5, atol=1e-5)
    assert late.ptq4dm_backend in ("simulated", "openvino")
    none = Call((x[:0],), {"sigma": sigma[:0]})
    for call, wrong in (
        (Call((x,)), "example does not fit Score.forward"),
        (none, "example holds no samples"),
        ((x,), r"example is a tuple: give ptq4dm\.Call"),
    ):
        with pytest.raises(ArtifactError, match=wrong):
            ptq4dm.load(folder, module=Score().eval(), example=call)
    with pytest.raises(ptq4dm.errors.ModelError, match="a str is no network"):
        ptq4dm.load(folder, module="Score")
    ready = ptq4dm.load(folder, module=Score().eval(), example=Call((x,), {"sigma": sigma})).to_module("simulated")
    assert torch.equal(ready(x, sigma=sigma), got)


DAMAGES = {
    "no scheduler": lambda f: (f / "scheduler" / "scheduler_config.json").unlink(),
    "a list for an index": lambda f: (f / "model_index.json").write_text("[]"),
    "a list for a config": lambda f: (f / "unet" / "config.json").write_text("[]"),
    "a list for the scheduler": lambda f: (f / "scheduler" / "scheduler_config.json").write_text("[]"),
    "no quantization": lambda f: edit(f / "unet" / "config.json", quantization_config=None),
    "text for the quantization": lambda f: edit(f / "unet" / "config.json", quantization_config="x"),
    "a network that cannot be": lambda f: edit(f / "unet" / "config.json", block_out_channels=[8, 17]),
    "a foreign plan": lambda f: edit_denoiser(f, plan=[{"colour": "red"}]),
    "no recipe": lambda f: edit(f / "ptq4dm.json", recipe=None),
    "no layers": lambda f: edit_denoiser(f, layers=None),
    "a layer that is none": lambda f: edit_denoiser(f, layers=["mid_block"]),
    "weights elsewhere": lambda f: edit_denoiser(f, weights="../other.safetensors"),
    "no denoisers": lambda f: edit(f / "ptq4dm.json", denoisers={}),
    "no facts": lambda f: edit(f / "ptq4dm.json", facts={}),
    "text for facts": lambda f: edit(f / "ptq4dm.json", facts="none"),
    "facts of a model without its bytes": lambda f: edit(f / "ptq4dm.json", facts={"model": {"name": "net"}}),
    "facts of a model without its name": lambda f: edit(f / "ptq4dm.json", facts={"model": {"float_bytes": 4}}),
    "text for bytes": lambda f: edit(f / "ptq4dm.json", facts={"model": {"name": "net", "float_bytes": "4"}}),
    "a list for the facts of a denoiser": lambda f: edit_denoiser(f, facts=[]),
    "a number for what was folded": lambda f: edit_denoiser(f, facts={"folded": 3}),
    "another arithmetic": lambda f: edit(f / "ptq4dm.json", arithmetic="qdq"),
    "a truth for a version": lambda f: edit(f / "ptq4dm.json", format_version=True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(folder, damage):
    DAMAGES[damage](folder)
    with pytest.raises(ArtifactError) as caught:
        ptq4dm.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("a list for an index", r"model_index\.json holds a list, not a JSON object"),
        ("a list for a config", r"unet/config\.json holds a list, not a JSON object"),
        ("a list for the scheduler", r"scheduler_config\.json holds a list, not a JSON object"),
        ("text for the quantization", r"unet/config\.json: quantization_config = 'x' is not what ptq4dm writes"),
    ],
)
def test_the_damaged_file_is_named(folder, damage, message):
    DAMAGES[damage](folder)
    with pytest.raises(ArtifactError, match=f"{message}[;:] quantize the model again"):
        ptq4dm.load(folder)


@pytest.mark.parametrize("folder", [None, 5, ["a"]])
def test_a_folder_that_is_no_name(folder):
    with pytest.raises(ArtifactError, match=f"a {type(folder).__name__} is no folder: name one"):
        ptq4dm.load(folder)


def test_scales_that_are_not_positive_are_refused(model, tmp_path):
    other = ptq4dm.load(model.save(tmp_path / "a"))
    next(m for m in other.network.modules() if isinstance(m, QuantizedConv)).weight_scale[0] = 0
    with pytest.raises(ArtifactError, match="weight_scale holds scales that are not positive"):
        ptq4dm.load(other.save(tmp_path / "b"))


class OwnPipeline(diffusers.DDPMPipeline):
    """A class of the user's own."""


class OwnUNet(UNet2DModel):
    """A network of the user's own, the same but in name."""


def test_own_subclasses_are_saved_as_what_they_are_derived_from(tmp_path):
    source = tiny_pipeline()
    unet = OwnUNet.from_config(source.unet.config).eval()
    unet.load_state_dict(source.unet.state_dict())
    model = ptq4dm.quantize(OwnPipeline(unet, source.scheduler), QUICK)
    loaded = ptq4dm.load(model.save(tmp_path / "own"))
    assert type(loaded.to_pipeline("simulated")) is diffusers.DDPMPipeline
    assert torch.equal(call(loaded.network), call(model.network))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_pipeline_of_another_float_type_is_quantized_in_float32_and_left_as_it_was(dtype):
    source = tiny_pipeline().to(dtype)
    model = ptq4dm.quantize(source, QUICK)
    assert source.unet.dtype == dtype
    assert call(model.network).dtype == torch.float32


def test_a_module_that_is_none_is_refused():
    with pytest.raises(ptq4dm.errors.ModelError, match=r"a str is no network: give a torch\.nn\.Module"):
        ptq4dm.quantize_module("emoji-32", [])


def test_a_batch_that_the_module_cannot_run_is_named():
    fits, wrong = torch.randn(2, 2, 9), torch.randn(2, 7, 9)  # Score is of two channels
    batches = [((x,), {"sigma": torch.ones(2)}) for x in (fits, fits, wrong)]
    with pytest.raises(
        ptq4dm.errors.CalibrationError, match=r"Score cannot be run on calibration batch 2 \(RuntimeError: .*channels"
    ):
        ptq4dm.quantize_module(Score(), batches, timestep="sigma")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bare_module_with_broken_weights_is_refused(value):
    module = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)).requires_grad_(False)
    module[1].bias[3] = value
    with pytest.raises(ptq4dm.errors.ModelError, match=r"Sequential\.1\.bias: 1 of 8 values are NaN or infinite"):
        ptq4dm.quantize_module(module, [((torch.randn(2, 8, 4, 4),), {})])
