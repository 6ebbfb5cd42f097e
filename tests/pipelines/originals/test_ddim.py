import pytest
import torch
from papers.ddim import Network, Settings, random_weights

from ptq4dm.pipelines.originals.convert import convert_checkpoint


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(mult=(1, 3, 2), attention=(0, 2)), Settings(blocks=2, attention=()), Settings(mult=(1,))],
    ids=["plain", "odd", "no-attention", "one"],
)
def test_the_loaded_network_is_the_original(tmp_path, settings):
    weights = random_weights(settings)
    path = tmp_path / "model.ckpt"
    torch.save(weights, path)
    path.with_suffix(".toml").write_text("image_size = 16")
    unet = convert_checkpoint(path).unet.double()
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0, 431, 999])
    own = Network(weights, settings)(x, t)
    with torch.no_grad():
        torch.testing.assert_close(unet(x, t).sample, own, rtol=1e-10, atol=1e-10)
    assert own.std() > 0.1
