"""The whole job on a network that computes on another device, which is pretended (`elsewhere`): no GPU is needed."""

import copy
import functools

import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, VQModel
from elsewhere import ELSEWHERE, Far, elsewhere
from tiny import tiny_pipeline, tiny_unet

import ptq4dm
from ptq4dm.backends.places import device_for, device_of_network
from ptq4dm.errors import BackendError, BackendWarning, ModelError, RecipeError
from ptq4dm.evaluation.measure import caller
from ptq4dm.pipelines.denoiser import Call, call_on, float_tensors, network_on, placement
from ptq4dm.quantization.layers import QuantizedLayer

RECIPE = ptq4dm.load_recipe("w8a8-minmax").replace(calibration={"samples": 2, "steps": 3, "batch_size": 2})


def latent_pipeline():
    """A pipeline of a VAE and a UNet."""
    torch.manual_seed(0)
    vqvae = VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=3, num_vq_embeddings=8)
    source = LDMPipeline(vqvae.eval(), tiny_unet((8,)), DDIMScheduler())
    source.set_progress_bar_config(disable=True)
    return source


def rounded(weight, portable, importance, name, crossing, bits):
    """Weights rounded plainly: the search for their scales works in threads, which do not see the pretended device."""
    scale = weight.flatten(1).abs().amax(1) / 127
    return (weight / scale.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8), scale


@pytest.fixture(autouse=True)
def second_device(monkeypatch):
    monkeypatch.setattr("ptq4dm.quantization.rewrite.quantize_weight", rounded)
    with elsewhere():
        yield


def close(one, other):
    return float((one.cpu() - other.cpu()).norm()) < 0.02 * float(other.cpu().norm())


def test_the_pretended_device_refuses_what_lies_elsewhere_and_computes_the_same():
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    network, wanted = tiny_unet().to(ELSEWHERE), tiny_unet()(x, t).sample
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        network(x, t)
    found = network(x.to(ELSEWHERE), t.to(ELSEWHERE)).sample
    assert isinstance(found, Far) and close(found, wanted)


def test_a_call_moves_with_all_that_is_nested_in_it():
    x = torch.randn(2, 3)
    call = Call((x, 7, None), {"more": {"residuals": [x, (x, "a")]}, "t": torch.tensor(3)})
    moved = call_on(tiny_unet().to(ELSEWHERE), call)
    tensors = [moved.args[0], moved.kwargs["more"]["residuals"][0], moved.kwargs["more"]["residuals"][1][0]]
    assert all(tensor.device == ELSEWHERE and torch.equal(tensor.cpu(), x) for tensor in tensors)
    assert moved.kwargs["t"].device == ELSEWHERE and moved.kwargs["t"].dtype == torch.int64
    assert moved.args[1:] == (7, None) and moved.kwargs["more"]["residuals"][1][1] == "a"
    assert call.args[0] is x


@pytest.fixture
def quantized(monkeypatch):
    """The same pipeline quantized on either device."""
    monkeypatch.setattr("ptq4dm.calibration.calls.ALONG", 4)

    def make(recipe):
        here, there = tiny_pipeline((8,)), tiny_pipeline((8,))
        there.unet.to(ELSEWHERE)
        return ptq4dm.quantize(here, recipe), ptq4dm.quantize(there, recipe)

    return make


@pytest.mark.parametrize("arithmetic", ["float-out", "qdq"])
def test_an_unconditional_pipeline_is_quantized_where_it_computes(quantized, arithmetic):
    wanted, found = quantized(RECIPE.replace(arithmetic=arithmetic))
    assert all(tensor.device == ELSEWHERE for tensor in found.network.state_dict().values())
    assert [layer.quantized for layer in found.plan] == [layer.quantized for layer in wanted.plan]
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    answer = wanted.network(x, t).sample
    assert close(found.to_module("simulated")(x.to(ELSEWHERE), t.to(ELSEWHERE)).sample, answer)
    assert close(caller(found.network, Call((x, t)))(), answer)
    if arithmetic == "float-out":
        with pytest.raises(BackendError, match=r"the network is on meta, and openvino computes on the CPU: move it"):
            found.to_module("openvino")
        with pytest.warns(BackendWarning, match="passes over openvino: the network is on meta"):
            assert found.to_module("auto").ptq4dm_backend == "simulated"


def test_a_pipeline_with_conditions_is_quantized_where_it_computes():
    """Its denoiser is found at work, with the calls that the pipeline itself makes there."""
    here, there = latent_pipeline(), latent_pipeline().to(ELSEWHERE)
    wanted, found = (ptq4dm.quantize(source, RECIPE, conditions=[{}]) for source in (here, there))
    assert all(tensor.device == ELSEWHERE for tensor in found.network.state_dict().values())
    assert found.denoiser().example.args[0].device == ELSEWHERE
    call = wanted.denoiser().example
    moved = call_on(found.network, call)
    assert close(found.network(*moved.args, **moved.kwargs).sample, wanted.network(*call.args, **call.kwargs).sample)


class Noting:
    """A backend of the pretended device: its networks are as they come, and it notes where and in which type."""

    name, arithmetic, device = "noting", "float-out", ELSEWHERE.type

    def __init__(self):
        self.seen = []

    def unavailable(self):
        return None

    def prepare(self, network, example):
        self.seen.append(placement(network))
        return network


def where(network):
    """The devices and types of a network's float tensors, but of what keeps its types."""
    return {(tensor.device, tensor.dtype) for tensor in float_tensors(network)}


@pytest.fixture(scope="module")
def latent():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptq4dm.quantization.rewrite.quantize_weight", rounded)
        patch.setattr("ptq4dm.calibration.calls.ALONG", 4)
        return ptq4dm.quantize(latent_pipeline(), RECIPE, conditions=[{}])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_pipeline_is_moved_and_cast_before_its_backend_prepares_it(latent, dtype):
    """Else a backend that measures where its network lies could not."""
    backend, wanted = Noting(), dtype or torch.float32
    pipeline = latent.to_pipeline(backend, device=ELSEWHERE.type, torch_dtype=dtype)
    assert backend.seen == [(ELSEWHERE, wanted)]
    assert where(pipeline.unet) == where(pipeline.vqvae) == {(ELSEWHERE, wanted)}
    scales = [layer.input_scale for layer in pipeline.unet.modules() if isinstance(layer, QuantizedLayer)]
    assert scales and all(scale.dtype == torch.float32 and scale.device == ELSEWHERE for scale in scales)
    here = (torch.device("cpu"), torch.float32)  # the model and its pipeline stay as they were
    assert where(latent.network) == where(latent.pipeline.source.vqvae) == {here}
    assert latent.to_pipeline("simulated").unet is latent.network
    assert latent.to_pipeline("simulated").vqvae is latent.pipeline.source.vqvae
    x, t = torch.randn(2, 3, 16, 16), torch.tensor(300)
    call = call_on(pipeline.unet, Call((x, t)))
    assert close(pipeline.unet(*call.args).sample.float(), latent.network(x, t).sample)
    assert call.args[0].dtype == wanted and call.args[1].dtype == torch.int64


def test_a_pipeline_that_is_there_already_is_not_copied(latent):
    pipeline = latent.to_pipeline("simulated", device="cpu", torch_dtype=torch.float32)
    assert pipeline.unet is latent.network and pipeline.vqvae is latent.pipeline.source.vqvae
    one = latent.to_module("simulated", device=ELSEWHERE)
    assert network_on(one, ELSEWHERE) is one and where(one) == {(ELSEWHERE, torch.float32)}


@pytest.mark.parametrize(
    ("backend", "options", "error", "says"),
    [
        ("openvino", {"device": "meta"}, BackendError, "openvino computes on the CPU, and device = 'meta': leave it"),
        ("openvino", {"torch_dtype": torch.half}, BackendError, r"in float32, and torch_dtype = torch\.float16: leave"),
        ("simulated", {"device": "warp9"}, RecipeError, "device 'warp9' cannot be used here"),
        ("simulated", {"torch_dtype": "half"}, RecipeError, r"torch_dtype = 'half': accepted are torch\.float32"),
        ("tpu", {"device": "meta"}, BackendError, "no backend 'tpu'"),
        (Noting(), {"device": "cpu"}, BackendError, "noting computes on meta, and the device is 'cpu': name meta"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_anything_moves(latent, backend, options, error, says):
    before = latent.to_pipeline("simulated")
    for refused in (latent.to_pipeline, functools.partial(ptq4dm.accelerate, before)):
        with pytest.raises(error, match=says):
            refused(backend, **options)
    assert where(before.unet) == where(before.vqvae) == {(torch.device("cpu"), torch.float32)}


def test_an_offloaded_part_is_not_moved(latent, monkeypatch):
    monkeypatch.setattr(latent.pipeline.source.vqvae, "_hf_hook", object(), raising=False)
    with pytest.raises(ModelError, match=r"vqvae is being offloaded, so the pipeline cannot be moved: leave device"):
        latent.to_pipeline("simulated", device=ELSEWHERE)


def test_a_pipeline_is_moved_in_place_when_it_is_accelerated(latent):
    pipeline, backend = copy.deepcopy(latent.to_pipeline("simulated")), Noting()
    assert ptq4dm.accelerate(pipeline, backend, device=ELSEWHERE, torch_dtype=torch.bfloat16) is pipeline
    assert backend.seen == [(ELSEWHERE, torch.bfloat16)]
    assert where(pipeline.unet) == where(pipeline.vqvae) == {(ELSEWHERE, torch.bfloat16)}


def test_where_a_run_goes_when_no_device_is_named(monkeypatch):
    """A backend's own device if it is here; else the CPU, where a backend runs that can be used all the same."""
    noting = Noting()
    assert device_for(noting, None, "float-out") == "meta" == device_for(noting, "meta", "float-out")
    assert {device_for(name, None, "float-out") for name in ("auto", "simulated", "openvino")} == {"cpu"}
    assert device_for("openvino", "meta", "float-out") == device_for("auto", "meta", "float-out") == "meta"
    assert [device_of_network(name, "meta", "float-out") for name in ("openvino", "simulated", "auto", noting)] == [
        "cpu", "meta", "meta", "meta"]  # fmt: skip
    monkeypatch.setattr("ptq4dm.backends.places.is_here", lambda kind: False)
    assert device_for(noting, None, "float-out") == "cpu" == device_for(noting, "cpu", "float-out")
