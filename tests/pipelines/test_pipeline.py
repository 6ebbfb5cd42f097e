import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    LDMPipeline,
    ScoreSdeVePipeline,
    ScoreSdeVeScheduler,
    VQModel,
)
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file, save_file
from tiny import tiny_pipeline, tiny_unet

import ptq4dm
from ptq4dm.errors import CalibrationError, ModelError
from ptq4dm.pipelines import loading
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
from ptq4dm.registration import METHODS

WEIGHTS = Path("unet/diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, pipe) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def refusal(model) -> str:
    with pytest.raises(ModelError) as caught:
        open_pipeline(model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_tensors(folder: Path, edit) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folder_and_object_are_the_same_model(pipe, saved):
    from_object, from_folder, from_string = open_pipeline(pipe), open_pipeline(saved), open_pipeline(str(saved))
    assert from_object.fingerprint == from_folder.fingerprint == from_string.fingerprint
    assert (from_object.name, from_folder.name) == ("DDPMPipeline", str(saved))
    assert from_folder.component == "unet"
    assert from_folder.denoiser is from_folder.source.unet
    assert from_folder.picture_shape == (3, 16, 16)
    assert from_folder.num_train_timesteps == 1000
    assert open_pipeline(from_folder) is from_folder
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(from_object.denoiser(x, 7).sample, from_folder.denoiser(x, 7).sample)


def test_fingerprint_tells_models_apart():
    pipeline = open_pipeline(tiny_pipeline())
    seen = {pipeline.fingerprint}
    with torch.no_grad():
        pipeline.source.unet.conv_in.bias[0] += 1e-6
    seen.add(pipeline.fingerprint)
    seen.add(open_pipeline(DDPMPipeline(pipeline.source.unet, DDPMScheduler(beta_end=0.019))).fingerprint)
    seen.add(open_pipeline(DDPMPipeline(pipeline.source.unet, DDIMScheduler())).fingerprint)
    assert len(seen) == 4


def test_denoiser_is_put_into_evaluation_mode():
    source = DDPMPipeline(tiny_unet(dropout=0.5).train(), DDPMScheduler())
    denoiser = open_pipeline(source).denoiser
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(denoiser(x, 3).sample, denoiser(x, 3).sample)


def test_quantizing_gives_a_pipeline_object_back_in_the_mode_it_came_in():
    """Part of it in training, part of it not; an error on the way changes nothing of that."""
    source = DDPMPipeline(tiny_unet(dropout=0.5).train(), DDPMScheduler())
    source.unet.mid_block.eval()
    before = {name: module.training for name, module in source.unet.named_modules()}
    recipe = ptq4dm.load_recipe("w8a8-minmax").replace(calibration={"samples": 2, "steps": 2, "batch_size": 2})
    model = ptq4dm.quantize(source, recipe)
    assert {name: module.training for name, module in source.unet.named_modules()} == before
    assert not any(module.training for module in model.network.modules())
    with pytest.raises(CalibrationError, match="takes no conditions"):
        ptq4dm.quantize(source, recipe, conditions=[{}])
    assert {name: module.training for name, module in source.unet.named_modules()} == before


def truncate(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def tamper(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[10] = 255
    (folder / WEIGHTS).write_bytes(content)


def drop_tensor(folder):
    edit_tensors(folder, lambda tensors: tensors.pop("conv_in.weight"))


def reshape_tensor(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"conv_in.weight": torch.zeros(4, 3, 3, 3)}))


def add_tensor(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"surplus": torch.zeros(1)}))


def nan_tensor(folder):
    edit_tensors(folder, lambda tensors: tensors["mid_block.resnets.0.conv1.weight"].view(-1)[:3].fill_(torch.nan))


def infinite_tensor(folder):
    edit_tensors(folder, lambda tensors: tensors["conv_out.bias"].fill_(torch.inf))


DAMAGES = [
    (truncate, "truncated or damaged"),
    (tamper, "truncated or damaged"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b""), "truncated or damaged"),
    (lambda folder: (folder / WEIGHTS).unlink(), "no file named diffusion_pytorch_model.safetensors"),
    (drop_tensor, "weights do not fit the config (missing keys: conv_in.weight)"),
    (reshape_tensor, "conv_in.weight"),
    (add_tensor, "weights do not fit the config (unexpected keys: surplus)"),
    (nan_tensor, "unet.mid_block.resnets.0.conv1.weight: 3 of 2304 values are NaN or infinite"),
    (infinite_tensor, "unet.conv_out.bias: 3 of 3 values are NaN or infinite"),
    (lambda folder: (folder / "model_index.json").unlink(), "no diffusers pipeline (it has no model_index.json)"),
    (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be read as JSON"),
    (lambda folder: (folder / "model_index.json").write_text("[]"), "not a JSON object"),
    (lambda folder: (folder / "unet/config.json").write_text("{"), "cannot be read as JSON"),
    (lambda folder: shutil.rmtree(folder / "unet"), "no file named"),
    (lambda folder: edit_json(folder / "model_index.json", _class_name="NoSuch"), "'NoSuch' is no pipeline"),
    (lambda folder: edit_json(folder / "model_index.json", unet=["evil", "UNet"]), "only classes of diffusers"),
    (lambda folder: edit_json(folder / "model_index.json", unet=["diffusers", "UNet9"]), "does not have"),
    (lambda folder: edit_json(folder / "unet/config.json", block_out_channels="wide"), "cannot be loaded"),
    (
        lambda folder: edit_json(folder / "scheduler/scheduler_config.json", beta_schedule="magic"),
        "cannot be loaded: magic is not implemented",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[message for _, message in DAMAGES])
def test_damaged_folder(folder, damage, message):
    damage(folder)
    said = refusal(folder)
    assert message in said and (str(folder) in said)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(folder):
    (folder / WEIGHTS).unlink()
    torch.save(Payload(folder / "executed"), folder / "unet/diffusion_pytorch_model.bin")
    assert "cannot be loaded" in refusal(folder)
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("method", METHODS)
def test_our_own_int8_artifact_is_for_load(folder, method):
    edit_json(folder / "unet/config.json", quantization_config={"quant_method": method, "format_version": 1})
    assert "open it with DiffusionPipeline.from_pretrained after `import ptq4dm`" in refusal(folder)
    (folder / "ptq4dm.json").write_text("{}")
    assert f"open it with ptq4dm.load({str(folder)!r})" in refusal(folder)


def test_a_model_quantized_by_others(folder):
    edit_json(folder / "unet/config.json", quantization_config={"quant_method": "torchao"})
    assert "quantized already (torchao): give the float model" in refusal(folder)


@pytest.mark.parametrize(
    "model",
    ["/no/such/folder", "emoji-33", "no such thing", "", "x" * 300, "~nobody-of-that-name/x", Path("nobody/nothing")],
)
def test_unknown_model(model):
    said = refusal(model)
    assert repr(str(model)) in said or "no diffusers pipeline" in said
    assert "accepted are emoji-32" in said or "model_index.json" in said


@pytest.mark.parametrize("model", [None, 3, torch.nn.Linear(2, 2)])
def test_not_a_model_at_all(model):
    said = refusal(model)
    assert type(model).__name__ in said and "quantize_module" in said


def test_hub_out_of_reach(monkeypatch):
    monkeypatch.setattr(loading, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    said = refusal("nobody/no-such-diffusion-model")
    assert "'nobody/no-such-diffusion-model'" in said
    assert "not in the local cache" in said and "give its folder" in said


def test_hub_model_from_the_cache_when_offline(monkeypatch, saved, tmp_path):
    revision = "0" * 40
    repository = tmp_path / "models--somebody--emoji"
    shutil.copytree(saved, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(revision)
    monkeypatch.setattr(loading, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    opened = open_pipeline("somebody/emoji")
    assert opened.name == "somebody/emoji"
    assert opened.fingerprint == open_pipeline(saved).fingerprint


def latent_pipeline():
    vqvae = VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=3, num_vq_embeddings=8)
    return LDMPipeline(vqvae, tiny_unet(), DDIMScheduler())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (latent_pipeline, "other components (vqvae)"),
        (lambda: ScoreSdeVePipeline(tiny_unet(), ScoreSdeVeScheduler()), "ScoreSdeVeScheduler has no betas"),
        (lambda: DDPMPipeline(tiny_unet(num_class_embeds=4), DDPMScheduler()), "wants class labels"),
    ],
)
def test_a_pipeline_that_our_own_loop_cannot_draw_with(build, message):
    opened = open_pipeline(build())
    assert opened.components == ()  # until it was seen at work
    with pytest.raises(ModelError) as caught:
        _ = opened.picture_shape
    assert message in str(caught.value) and "is no unconditional pixel model" in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: DDPMPipeline(tiny_unet(size=(3, 16, 16)), DDPMScheduler()),
            "sample_size is (3, 16, 16), not a number",
        ),
        (lambda: DDPMPipeline(tiny_unet(size=0), DDPMScheduler()), "sample_size is 0, not a number"),
        (lambda: DDPMPipeline(tiny_unet(size="16"), DDPMScheduler()), "sample_size is '16', not a number"),
        (
            lambda: DDPMPipeline(tiny_unet(), DDPMScheduler(prediction_type="magic")),
            "prediction_type is 'magic', none of epsilon, sample, v_prediction",
        ),
    ],
)
def test_settings_that_no_sampling_can_follow(build, message):
    assert f"cannot be sampled: its {'unet' if 'size' in message else 'scheduler'}'s {message}" in refusal(build())


def test_a_pipeline_is_a_value(pipe):
    opened = open_pipeline(pipe)
    with pytest.raises(AttributeError):
        opened.name = "other"  # type: ignore[misc]
    assert isinstance(opened, Pipeline)
