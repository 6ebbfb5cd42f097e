"""The layers of IP-Adapters are built again from the names of saved tensors (their bits: tests/families)."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from families import FAMILIES
from tiny import tiny_unet

from ptq4dm.errors import ArtifactError
from ptq4dm.quantization.ip_adapters import attach_adapters


@pytest.fixture(scope="module")
def adapted():
    return FAMILIES["stable-diffusion-ip-adapter"].build().unet


def test_the_structure_is_that_of_a_loaded_adapter(adapted):
    tensors = adapted.state_dict()
    network = UNet2DConditionModel.from_config(adapted.config)
    assert set(network.state_dict()) != set(tensors)
    attach_adapters(network, tensors, "here")
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in tensors.items()
    }
    network.load_state_dict(tensors)
    call = {
        "encoder_hidden_states": torch.ones(1, 12, 32),
        "added_cond_kwargs": {"image_embeds": [torch.ones(1, 1, 32)]},
    }
    with torch.no_grad():
        got, wanted = (net.eval()(torch.ones(1, 4, 8, 8), 5, **call).sample for net in (network, adapted))
    assert torch.equal(got, wanted)


def test_a_network_without_adapters_is_left_as_it_is():
    network = tiny_unet()
    attach_adapters(network, network.state_dict(), "here")
    assert set(network.state_dict()) == set(tiny_unet().state_dict())


def test_what_cannot_be_built_again(adapted):
    tensors = dict(adapted.state_dict())
    with pytest.raises(ArtifactError, match="here: a UNet2DModel with an IP-Adapter cannot be loaded"):
        attach_adapters(tiny_unet(), tensors, "here")
    del tensors["encoder_hid_proj.image_projection_layers.0.image_embeds.weight"]
    with pytest.raises(ArtifactError, match="here: its IP-Adapter is not of the plain kind"):
        attach_adapters(UNet2DConditionModel.from_config(adapted.config), tensors, "here")
