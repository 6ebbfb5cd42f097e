import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

import ptq4dm
from ptq4dm.errors import ModelError
from ptq4dm.pipelines.fixed_heads import FixedHeadsUNet2DModel

CONFIG = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
}
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return FixedHeadsUNet2DModel(**CONFIG, attention_head_dim=4).eval().requires_grad_(False)


def test_every_attention_has_as_many_heads():
    made = network()
    found = {(module.heads, module.inner_dim) for module in made.modules() if hasattr(module, "to_q")}
    assert found == {(4, 16), (4, 32)}
    one_width = UNet2DModel(**CONFIG, attention_head_dim=4).eval()  # 4 channels a head: 4 and 8 heads
    one_width.load_state_dict(made.state_dict())
    assert not torch.allclose(made(X, 3).sample, one_width(X, 3).sample)
    with pytest.raises(TypeError, match="colour"):
        FixedHeadsUNet2DModel(**CONFIG, colour="red")


@pytest.mark.parametrize("opened_by", ["ptq4dm", "diffusers"])
def test_a_saved_folder_gives_the_same_network(tmp_path, opened_by):
    own = network()
    DDPMPipeline(own, DDPMScheduler()).save_pretrained(tmp_path / "model")
    if opened_by == "ptq4dm":
        unet = ptq4dm.open_pipeline(tmp_path / "model").denoiser
    else:
        unet = DiffusionPipeline.from_pretrained(tmp_path / "model").unet
    assert type(unet) is FixedHeadsUNet2DModel
    assert torch.equal(unet(X, 3).sample, own(X, 3).sample)


def test_classes_of_other_modules_are_not_loaded(tmp_path):
    folder = tmp_path / "model"
    DDPMPipeline(network(), DDPMScheduler()).save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("ptq4dm.pipelines.fixed_heads", "os.path"))
    with pytest.raises(ModelError, match="only classes of diffusers, transformers, ptq4dm"):
        ptq4dm.open_pipeline(folder)
