"""Every family through the whole job; in INT8 on the CPU the odd ones (all of them: benchmarks/bench_families.py)."""

import dataclasses
import json

import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler

import ptq4dm
from families import FAMILIES, run
from families.family import modules
from families.parts import masks, pictures
from families.proof import DIFFUSERS, RECIPE, conditions, prove, relative
from ptq4dm.cli.main import main
from ptq4dm.errors import CalibrationError

QUICK = RECIPE.replace(calibration={"samples": 2, "steps": 2}, weights={"error_feedback": False})
ON_ENGINE = ("wan-two-stages",)


@pytest.mark.parametrize("name", FAMILIES)
def test_calibrated_quantized_saved_and_loaded(name, tmp_path):
    family = FAMILIES[name]
    backends = ("simulated", "openvino") if name in ON_ENGINE else ("simulated",)
    proof = prove(family, tmp_path / "int8", backends, QUICK)
    assert set(proof.denoisers) == {*family.denoisers, *family.beside}
    assert proof.share > 0.85 and proof.calls_made + proof.calls_saved > 0
    assert all(0 < error < 0.3 for error in proof.call_error.values())
    assert proof.faults == () and proof.same_again == dict.fromkeys((DIFFUSERS, *backends), True)
    if name in ON_ENGINE:
        assert proof.on_cpu is not None and proof.on_cpu[0] == proof.on_cpu[1]
        assert proof.engine_error is not None and proof.engine_error < 0.02
        assert proof.engine_distance.keys() == set(proof.denoisers)
        assert max(proof.engine_distance.values()) < 0.02


def test_the_users_own_pipeline_stays_as_it_was():
    family = FAMILIES["kandinsky-2-2"]  # combined of two pipelines that share its parts
    pipeline = family.build()
    before = run(family, pipeline)
    model = ptq4dm.quantize(pipeline, QUICK, conditions=conditions(family))
    assert torch.equal(run(family, pipeline), before)
    assert not torch.equal(run(family, model.to_pipeline("simulated")), before)


@pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")
def test_nothing_but_the_denoiser_changes(tmp_path):
    family = FAMILIES["stable-diffusion"]
    model = ptq4dm.quantize(family.build(), QUICK, conditions=conditions(family))
    wanted = modules(family.build())
    folder = model.save(tmp_path / "int8")
    for pipeline in (model.to_pipeline("simulated"), ptq4dm.load(folder).to_pipeline("simulated"),
                     DiffusionPipeline.from_pretrained(folder)):  # fmt: skip
        found = modules(pipeline)
        assert found.keys() == wanted.keys() > {"unet"}
        config = family.build().scheduler.config
        assert all(pipeline.scheduler.config[key] == config[key] for key in config if not key.startswith("_"))
        for name in wanted.keys() - {"unet"}:
            tensors = found[name].state_dict()
            assert type(found[name]) is type(wanted[name]) and tensors.keys() == wanted[name].state_dict().keys()
            assert all(torch.equal(tensors[key], value) for key, value in wanted[name].state_dict().items())


def test_a_condition_that_the_pipeline_does_not_have():
    pipeline = FAMILIES["stable-diffusion"].build()
    with pytest.raises(CalibrationError, match=r"condition 0: StableDiffusionPipeline has no argument 'promt'; it has"):
        ptq4dm.quantize(pipeline, RECIPE, conditions=[{"promt": "a cat"}])
    with pytest.raises(CalibrationError, match="'generator' is set by the recipe: leave it out"):
        ptq4dm.quantize(pipeline, RECIPE, conditions=[{"prompt": "a cat", "generator": None}])
    from_image = FAMILIES["stable-diffusion-image-to-image"].build()
    with pytest.raises(CalibrationError, match="StableDiffusionImg2ImgPipeline does not take the calibration inputs"):
        ptq4dm.quantize(from_image, RECIPE)  # the package has prompts of its own, but no pictures


def test_an_ip_adapter_stays_in_use_on_every_backend():
    """diffusers notes it on the config object only, which is made anew when a network is marked as quantized."""
    family = FAMILIES["stable-diffusion-ip-adapter"]
    model = ptq4dm.quantize(family.build(), QUICK, conditions=conditions(family))
    pipeline = model.to_pipeline("simulated")
    assert pipeline.unet.config.encoder_hid_dim_type == "ip_image_proj"
    others = dataclasses.replace(
        family, inputs=lambda batch: {**family.inputs(1), "ip_adapter_image": pictures(1, seed=9)}
    )
    assert not torch.equal(run(family, pipeline), run(others, pipeline))


@pytest.mark.filterwarnings("ignore::ptq4dm.errors.TimeAxisWarning")  # calibrated in two steps of another scheduler
def test_other_sizes_and_another_scheduler_on_the_engine():
    """Pictures of another height and width, and time-steps that are fractions: graphs are compiled as needed."""
    family = FAMILIES["stable-diffusion"]
    model = ptq4dm.quantize(family.build(), QUICK, conditions=conditions(family))
    drawn = {}
    for backend in ("simulated", "openvino"):
        pipeline = model.to_pipeline(backend)
        pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
        for height, width in ((16, 16), (32, 16)):
            of_size = dataclasses.replace(
                family, inputs=lambda batch, h=height, w=width: {**family.inputs(batch), "height": h, "width": w}
            )
            drawn[backend, height, width] = run(of_size, pipeline, batch=2)
    for (backend, height, width), found in drawn.items():
        assert found.shape == (2, height, width, 3)
        assert backend == "simulated" or relative(found, drawn["simulated", height, width]) < 0.02


def test_images_masks_and_a_dataset_on_the_command_line(tmp_path, capsys):
    FAMILIES["stable-diffusion-inpainting"].build().save_pretrained(tmp_path / "float")
    for name, images in (("images", pictures(2)), ("masks", masks(2))):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            image.save(tmp_path / name / f"{index}.png")
    (tmp_path / "captions.csv").write_text("id,caption\n1,a cat\n2,a dog\n3,a tree\n")
    (tmp_path / "recipe.toml").write_text("[calibration]\nsamples = 3\nsteps = 1\nbatch_size = 3\n")
    given = {name: tmp_path / place for name, place in (("--images", "images"), ("--masks", "masks"))}
    given |= {"--dataset": tmp_path / "captions.csv", "--column": "caption", "--recipe": tmp_path / "recipe.toml"}
    command = ["quantize", tmp_path / "float", "--out", tmp_path / "int8", *(p for pair in given.items() for p in pair)]
    assert main([*map(str, command), "--json"]) == 0
    assert ptq4dm.load(tmp_path / "int8").facts["calibration"]["conditions"] == 3
    capsys.readouterr()
    for others, told in (
        (["--masks", "m"], "--masks is given without --images: give both"),
        (["--split", "train[:2]"], "--split is given without --dataset: give both"),
        (["--column", "c", "--split", "train"], "--column is given without --dataset: give both"),
        (["--dataset", "d"], "--column is missing: name the column of the dataset that holds the prompts"),
        (["--prompts", "p", "--dataset", "d", "--column", "c"], "--prompts and --dataset are both given"),
    ):
        assert main(["quantize", str(tmp_path / "float"), "--out", str(tmp_path / "x"), *others]) == 2
        assert capsys.readouterr().err.startswith(f"ptq4dm: error: {told}")


def test_prompts_of_a_file_on_the_command_line(tmp_path, capsys):
    FAMILIES["stable-diffusion"].build().save_pretrained(tmp_path / "float")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    (tmp_path / "recipe.toml").write_text("[calibration]\nsamples = 2\nsteps = 2\nbatch_size = 2\n")
    wanted = ["--recipe", tmp_path / "recipe.toml", "--prompts", tmp_path / "prompts.txt", "--json"]
    assert main(["quantize", str(tmp_path / "float"), "--out", str(tmp_path / "int8"), *map(str, wanted)]) == 0
    assert json.loads(capsys.readouterr().out)["quantized"] > 70
    facts = ptq4dm.load(tmp_path / "int8").facts["calibration"]
    assert facts["conditions"] == 2 and facts["samples"] == 2
    assert main(["sample", str(tmp_path / "int8")]) == 2
    assert "is no unconditional pixel model" in capsys.readouterr().err


def test_what_only_unconditional_models_take_is_refused():
    family = FAMILIES["stable-diffusion"]
    source = family.build()
    for name, given in {"pictures": torch.zeros(2, 3, 8, 8), "calibration_set": object()}.items():
        with pytest.raises(CalibrationError, match=f"calibrated while it draws, with conditions: leave out {name}"):
            ptq4dm.quantize(source, conditions=[{"prompt": "a cat"}], **{name: given})
