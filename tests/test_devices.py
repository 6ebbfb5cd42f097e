"""The whole job on a network that computes on another device, which is pretended (`elsewhere`): no GPU is needed."""

import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, VQModel
from elsewhere import ELSEWHERE, Far, elsewhere
from tiny import tiny_pipeline, tiny_unet

import ptq4dm
from ptq4dm.errors import BackendError, BackendWarning
from ptq4dm.evaluation.measure import caller
from ptq4dm.pipelines.denoiser import Call, call_on

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
