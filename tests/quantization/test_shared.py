"""Layers under several names: one in the file, all names again when loaded, and the same numbers to the bit."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from safetensors.torch import load_file
from tiny import tiny_pipeline
from torch import nn

import ptq4dm
from ptq4dm.errors import ArtifactError
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.layers_qdq import OutputQuantized

pytestmark = pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")
RECIPE = ptq4dm.load_recipe("w8a8-minmax").replace(calibration={"samples": 4, "steps": 4, "batch_size": 4})


class Twins(nn.Module):
    """A linear layer, a convolution and a norm under two names each; or, not tied, as many of their own."""

    def __init__(self, tied=True):
        super().__init__()
        self.first, self.conv, self.norm = nn.Linear(8, 8), nn.Conv1d(8, 8, 3, padding=1), nn.LayerNorm(8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Conv1d(8, 8, 3, padding=1), nn.LayerNorm(8))
        if tied:
            self.block[0], self.block[2], self.block[3] = self.first, self.conv, self.norm

    def forward(self, x):
        return self.block(x) + self.norm(self.first(x)) + self.conv(x)


@pytest.fixture(scope="module", params=[{}, {"float_share": 1.0}, {"arithmetic": "qdq"}], ids=["int8", "half", "qdq"])
def twins(request):
    torch.manual_seed(0)
    network = Twins().eval()
    batches = [((torch.randn(4, 8, 8),), {}) for _ in range(3)]
    return ptq4dm.quantize_module(network, batches, RECIPE.replace(**request.param))


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_bare_module_comes_back_with_its_ties(twins, tmp_path, tied):
    x = torch.randn(5, 8, 8)
    wanted = twins.network(x)
    loaded = ptq4dm.load(twins.save(tmp_path / "twins"), module=Twins(tied).eval())
    assert torch.equal(loaded.network(x), wanted)
    assert loaded.network.block[0] is loaded.network.first and loaded.network.block[2] is loaded.network.conv
    tensors = load_file(tmp_path / "twins" / "module.safetensors")
    assert "first.bias" in tensors and not [name for name in tensors if name.startswith(("block.0", "block.2"))]
    assert torch.equal(ptq4dm.load(loaded.save(tmp_path / "again"), module=Twins().eval()).network(x), wanted)


def test_the_size_counts_each_layer_once(twins):
    network = twins.network
    own = {id(t): t.nbytes for module in network.modules() for t in (*module._parameters.values(),
           *module._buffers.values()) if t is not None}  # fmt: skip
    assert twins.int8_bytes == sum(own.values())


@torch.no_grad()
def test_engines_run_it(twins):
    pytest.importorskip("openvino")
    if any(isinstance(module, OutputQuantized) for module in twins.network.modules()):
        pytest.skip("of another arithmetic")
    x = torch.randn(5, 8, 8)
    torch.testing.assert_close(twins.to_module("openvino")(x), twins.network(x), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    """A UNet in which a projection and a whole residual block stand under two names."""
    pipeline = tiny_pipeline()
    middle = pipeline.unet.mid_block
    middle.attentions[0].to_k = middle.attentions[0].to_q
    middle.resnets[1] = middle.resnets[0]
    return ptq4dm.quantize(pipeline, RECIPE.replace(float_share=0.4))


def check_ties(network):
    middle = network.mid_block
    assert isinstance(middle.attentions[0].to_q, QuantizedLayer)
    assert middle.attentions[0].to_k is middle.attentions[0].to_q
    assert middle.resnets[1].conv2 is middle.resnets[0].conv2


@torch.no_grad()
def test_ptq4dm_and_diffusers_load_it_to_the_bit(model, tmp_path):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor(400)
    wanted = model.network(x, t).sample
    check_ties(model.network)
    folder = model.save(tmp_path / "int8")
    loaded = ptq4dm.load(folder)
    assert torch.equal(loaded.network(x, t).sample, wanted)
    check_ties(loaded.network)
    alone = UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert torch.equal(alone(x, t).sample, wanted)
    check_ties(alone)
    for index, options in enumerate(({}, {"max_shard_size": "20KB"}, {"safe_serialization": False})):
        DiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / str(index), **options)
        safe = options.get("safe_serialization", True)
        found = DiffusionPipeline.from_pretrained(tmp_path / str(index), use_safetensors=safe)
        assert torch.equal(found.unet(x, t).sample, wanted)
        check_ties(found.unet)


def test_a_network_without_a_place_for_a_name_is_refused(model, tmp_path):
    folder = model.save(tmp_path / "int8")
    for path in ("ptq4dm.json", "unet/config.json"):
        facts = json.loads((folder / path).read_text())
        header = facts["denoisers"]["unet"] if path == "ptq4dm.json" else facts["quantization_config"]
        header["shared"] = {"nowhere.to_k": header["layers"][0]}
        (folder / path).write_text(json.dumps(facts))
    for opened in (lambda: ptq4dm.load(folder), lambda: UNet2DModel.from_pretrained(folder, subfolder="unet")):
        with pytest.raises(ArtifactError, match=r"no place for the layer .* under its other name 'nowhere\.to_k'"):
            opened()
