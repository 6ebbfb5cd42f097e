import pytest
import torch
from papers.improved import Network, Settings, random_weights
from safetensors.torch import save_file

from ptq4dm.pipelines.fixed_heads import FixedHeadsUNet2DModel
from ptq4dm.pipelines.originals.convert import convert_checkpoint

FLAGS = 'repository = "improved-diffusion"\nimage_size = 16\nrescale_timesteps = false\n'


def saved(tmp_path, weights, flags=FLAGS, name="model.pt"):
    path = tmp_path / name
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    if flags:
        path.with_suffix(".toml").write_text(flags)
    return path


def outputs(settings, path, steps=(0, 3, 431, 999), scale=1.0):
    """What the original network and the loaded one answer, in float64."""
    unet = convert_checkpoint(path).unet.double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(steps), 3, 16, 16, generator=generator, dtype=torch.float64)
    t = torch.tensor(steps)
    y = torch.arange(len(steps)) % settings.classes if settings.classes else None
    own = Network(random_weights(settings), settings)(x, t.float() * scale, y)
    labels = {} if y is None else {"class_labels": y}
    with torch.no_grad():
        return own, unet(x, t, **labels).sample, unet


def assert_equal(settings, path, **options):
    own, loaded, unet = outputs(settings, path, **options)
    assert loaded.shape == own.shape and own.std() > 0.1
    torch.testing.assert_close(loaded, own, rtol=1e-10, atol=1e-10)
    return unet


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        (Settings(), ""),
        (Settings(scale_shift=False, learn_sigma=False), ""),
        (Settings(mult=(1, 3), attention=(1, 2), heads=1, blocks=2), "num_heads = 1"),
        (Settings(mult=(1, 1, 2), attention=(1, 4), head_channels=16), "num_head_channels = 16"),
        (Settings(attention=(), heads=2), "num_heads = 2"),
        (Settings(mult=(2 // 2, 2), attention=(2,), new_order=True), "use_new_attention_order = true"),
        (Settings(mult=(1, 2, 2), attention=(2, 4), updown=True), "resblock_updown = true"),
        (
            Settings(mult=(1, 1), attention=(1,), updown=True, blocks=2, new_order=True),
            "use_new_attention_order = true",
        ),
        (Settings(classes=5), "class_cond = true"),
        (Settings(mult=(1,), attention=()), ""),
    ],
    ids=[
        "plain",
        "no-scale-shift",
        "odd",
        "head-channels",
        "middle",
        "new-order",
        "updown",
        "updown-new",
        "classes",
        "one",
    ],
)
def test_the_loaded_network_is_the_original(tmp_path, settings, flags):
    assert_equal(settings, saved(tmp_path, random_weights(settings), FLAGS + flags))


def test_heads_of_different_width_as_in_imagenet64(tmp_path):
    settings = Settings(mult=(1, 2, 3), attention=(2, 4))
    unet = assert_equal(settings, saved(tmp_path, random_weights(settings)))
    assert isinstance(unet, FixedHeadsUNet2DModel)


def test_rescaled_time_steps(tmp_path):
    settings = Settings()
    flags = 'repository = "improved-diffusion"\nimage_size = 16\ndiffusion_steps = 4000\nnoise_schedule = "cosine"'
    path = saved(tmp_path, random_weights(settings), flags)
    assert_equal(settings, path, steps=(0, 1, 1723, 3999), scale=0.25)
