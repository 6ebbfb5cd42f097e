import json
import pickle
from pathlib import Path

import pytest
import torch
from papers import ddim, improved
from safetensors.torch import save_file

import ptq4dm
from ptq4dm.cli.main import main
from ptq4dm.errors import ModelError
from ptq4dm.pipelines.originals.convert import convert_checkpoint
from ptq4dm.pipelines.originals.flags import read_flags
from ptq4dm.pipelines.originals.published import PUBLISHED

WEIGHTS = improved.random_weights(improved.Settings())
OLD = ddim.random_weights(ddim.Settings())
FLAGS = {"repository": "improved-diffusion", "image_size": 16}
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def written(folder, held, flags=FLAGS, name="model.pt"):
    path = folder / name
    save_file(held, path) if path.suffix == ".safetensors" else torch.save(held, path)
    if flags is not None:
        path.with_suffix(".json").write_text(json.dumps(flags))
    return path


def refusal(path, config=None):
    with pytest.raises(ModelError) as caught:
        convert_checkpoint(path, config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_checkpoint_stands_where_a_model_is_expected(tmp_path):
    path = written(tmp_path, WEIGHTS, name="model.safetensors")
    opened, from_string = ptq4dm.open_pipeline(path), ptq4dm.open_pipeline(str(path))
    assert opened.fingerprint == from_string.fingerprint and opened.name == str(path)
    assert opened.picture_shape == (3, 16, 16) and opened.num_train_timesteps == 1000


def test_the_folder_that_convert_writes_is_the_same_model(tmp_path, capsys):
    path = written(tmp_path, WEIGHTS)
    assert main(["convert", str(path), "--out", str(tmp_path / "model"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["picture_shape"] == [3, 16, 16] and told["learned_variance"] is True
    assert ptq4dm.open_pipeline(tmp_path / "model").fingerprint == ptq4dm.open_pipeline(path).fingerprint
    assert main(["convert", str(path), "--out", str(tmp_path / "model")]) == 2
    assert "will not replace" in capsys.readouterr().err


@pytest.mark.parametrize(
    "held",
    [
        [OLD, {"state": {}, "param_groups": [{"lr": 0.1}]}, 3, 7, {f"module.{name}": x + 1 for name, x in OLD.items()}],
        {name: (x + 1).half() for name, x in OLD.items()},
    ],
    ids=["training, averaged last", "half precision"],
)
def test_the_forms_of_a_ddim_checkpoint(tmp_path, held):
    unet = convert_checkpoint(written(tmp_path, held, {"image_size": 16})).unet
    assert unet.dtype == torch.float32
    bias = unet.state_dict()["conv_in.bias"]
    torch.testing.assert_close(bias, OLD["conv_in.bias"] + 1, rtol=2e-3, atol=0)


@pytest.mark.parametrize(("mult", "size"), [((1, 2, 2, 2), 32), ((1, 2, 2, 2, 4), 64)])
def test_the_sizes_of_the_ddim_repository_need_no_config(tmp_path, mult, size):
    pipeline = convert_checkpoint(written(tmp_path, ddim.random_weights(ddim.Settings(mult=mult)), None))
    assert pipeline.unet.config["sample_size"] == size
    assert pipeline.scheduler.config["clip_sample"] is False


def test_a_published_checkpoint_is_known_by_its_name(tmp_path):
    cifar = improved.Settings(channels=128, mult=(1, 2, 2, 2), blocks=3, attention=(2, 4))
    path = tmp_path / "cifar10_uncond_50M_500K.pt"
    weights = improved.random_weights(cifar)
    torch.save({name: x.half() for name, x in weights.items()}, path)
    for opened in (convert_checkpoint(path), convert_checkpoint(path.rename(tmp_path / "mine.pt"), path.stem)):
        unet, scheduler = opened.unet.config, opened.scheduler.config
        assert (unet["sample_size"], unet["attention_head_dim"], unet["out_channels"]) == (32, 64, 6)
        assert (scheduler["num_train_timesteps"], scheduler["variance_type"]) == (4000, "learned_range")
        assert opened.unet.time_proj.weight.shape == (4000, 128)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_flags_can_be_read(name):
    assert read_flags(PUBLISHED[name], name).image_size in (32, 64, 128, 256, 512)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path):
    for name, dump in (("new.pt", torch.save), ("old.pt", lambda held, path: path.write_bytes(pickle.dumps(held)))):
        dump({"weights": Payload(tmp_path / "executed")}, tmp_path / name)
        assert "pickled code, which is never run" in refusal(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("part", [0, 5, 0.3, 0.9])
def test_truncated(tmp_path, name, part):
    path = written(tmp_path, WEIGHTS, name=name)
    content = path.read_bytes()
    path.write_bytes(content[: part if isinstance(part, int) else int(part * len(content))])
    assert str(path) in refusal(path)


def without(name):
    return {key: value for key, value in WEIGHTS.items() if key != name}


@pytest.mark.parametrize(
    ("held", "flags", "message"),
    [
        (torch.zeros(3), FLAGS, "holds no state dict"),
        ({"a": torch.zeros(1)}, FLAGS, "no layout that is known (a, ...)"),
        (WEIGHTS, None, "the weights do not tell image_size, heads and noise schedule: write the flags of the run to"),
        (OLD, None, "say image_size in a config"),
        (OLD, {"image_size": 16, "beta": 1}, "unknown key 'beta'"),
        (OLD, {"image_size": -1}, "image_size = -1 should be a positive int"),
        (WEIGHTS, {"image_size": 16}, "repository = None should be one of improved-diffusion, guided-diffusion"),
        (WEIGHTS, {**FLAGS, "num_haeds": 4}, "unknown flag 'num_haeds'"),
        (WEIGHTS, {**FLAGS, "num_heads": "4"}, "num_heads = '4' should be of type int"),
        (WEIGHTS, {**FLAGS, "num_heads": 0}, "num_heads = 0 should be at least 1"),
        (WEIGHTS, {**FLAGS, "num_heads": 7}, "num_heads = 7 does not divide an attention of 64 channels"),
        (WEIGHTS, {**FLAGS, "num_heads_upsample": 2}, "num_heads_upsample = 2"),
        (WEIGHTS, {**FLAGS, "num_channels": 64}, "num_channels = 64, but the weights are those of num_channels = 32"),
        (WEIGHTS, {**FLAGS, "learn_sigma": False}, "learn_sigma = False, but"),
        (WEIGHTS, {**FLAGS, "attention_resolutions": "16,8"}, "attention_resolutions = '16,8' of image_size = 16"),
        (WEIGHTS, {**FLAGS, "noise_schedule": "cosin"}, "noise_schedule = 'cosin': accepted are linear, cosine"),
        (WEIGHTS, {**FLAGS, "image_size": 15}, "image_size = 15 cannot be halved 1 times"),
        (WEIGHTS, [1], "holds a list: it should be a table of flags"),
        (without("output_blocks.3.0.in_layers.2.bias"), FLAGS, "no tensor 'output_blocks.3.0.in_layers.2.bias'"),
        (without("input_blocks.1.0.out_layers.3.weight"), FLAGS, "no tensor 'input_blocks.1.0.out_layers.3.weight'"),
        (without("out.2.weight"), FLAGS, "no tensor 'out.2.weight'"),
        (without("input_blocks.1.0.emb_layers.1.weight"), FLAGS, "make no network of their layout"),
        ({**WEIGHTS, "extra.weight": torch.zeros(1)}, FLAGS, "1 tensors that no UNet2DModel of its architecture has"),
        ({**WEIGHTS, "out.2.bias": torch.zeros(7)}, FLAGS, "make no network of their layout"),
        ({**WEIGHTS, "out.2.weight": torch.zeros(4, 32, 3, 3)}, FLAGS, "3 channels in and 4 out"),
        ({**WEIGHTS, "input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}, FLAGS, "6 channels in and 6 out"),
        ({**WEIGHTS, "time_embed.0.weight": torch.zeros(128, 64)}, FLAGS, "channel_mult = 0.5,1: UNet2DModel embeds"),
        ({key: value for key, value in WEIGHTS.items() if ".op." not in key and ".conv." not in key}, FLAGS,
         "conv_resample = False"),
        ({key: value for key, value in OLD.items() if "sample.conv" not in key}, {"image_size": 16},
         "resamp_with_conv = False"),
        ({**OLD, "down.1.block.0.conv_shortcut.weight": torch.zeros(1)}, {"image_size": 16}, "conv_shortcut = True"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(tmp_path, held, flags, message):
    assert message in refusal(written(tmp_path, held, flags))


def test_files_that_are_not_there(tmp_path):
    assert "no checkpoint" in refusal(tmp_path / "none.pt")
    assert "none.toml' cannot be read" in refusal(written(tmp_path, WEIGHTS), tmp_path / "none.toml")


def test_values_that_are_not_finite(tmp_path):
    path = written(tmp_path, {**WEIGHTS, "out.2.bias": torch.full((6,), torch.nan)})
    with pytest.raises(ModelError, match=r"conv_out\.bias: 6 of 6 values are NaN"):
        ptq4dm.open_pipeline(path)
