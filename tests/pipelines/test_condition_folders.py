"""Images and masks of folders, and what of them reaches the networks."""

import numpy as np
import pytest
import torch
from families import FAMILIES
from families.parts import PICTURE
from PIL import Image

import ptq4dm
from ptq4dm.calibration.in_pipeline import runs_of
from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.at_work import Enough, run_watched
from ptq4dm.pipelines.condition_folders import default_size, folder_conditions
from ptq4dm.pipelines.conditions import built_in_prompts, check_conditions
from ptq4dm.recipe import CalibrationRecipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three pictures, one of another size and one in gray, and masks of their left, right and upper half."""
    root = tmp_path_factory.mktemp("folders")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    bands = np.zeros((40, 24, 3), np.uint8)
    bands[:8, :, 0], bands[8:32, :, 1], bands[32:, :, 2] = 255, 255, 255  # red, green, blue
    Image.fromarray(bands).save(root / "images" / "b.png")
    for name, shape in (("a.png", (PICTURE, PICTURE, 3)), ("c.jpg", (PICTURE, PICTURE))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(root / "images" / name)
    for name, place in (("a", np.s_[:, :8]), ("b", np.s_[:, 8:]), ("c", np.s_[:8])):
        mask = np.zeros((PICTURE, PICTURE), np.uint8)
        mask[place] = 255
        Image.fromarray(mask).resize((32, 32), Image.Resampling.NEAREST).save(root / "masks" / f"{name}.bmp")
    (root / "images" / "notes.txt").write_text("no picture")
    return root


def first_calls(source, conditions, component, samples=3):
    """The keyword and positional arguments of the first call of a component, drawing three conditions in one run."""
    calls = []

    class First:
        def called(self, name, module, args, kwargs):
            if name == component:
                calls.append((args, kwargs))
                raise Enough

        def started(self, scheduler): ...

        def stepped(self, scheduler, timestep): ...

    recipe = CalibrationRecipe(samples=samples, steps=2, batch_size=samples)
    for _, inputs in runs_of(ptq4dm.open_pipeline(source), conditions, range(samples), recipe):
        run_watched(source, inputs, First())
    return calls


def test_masks_reach_the_network_of_their_own_picture(folders):
    source = FAMILIES["stable-diffusion-inpainting"].build()
    conditions = folder_conditions(source, folders / "images", folders / "masks")
    ((args, _),) = first_calls(source, conditions, "unet")  # one run for all three, though their sizes differ
    latents = args[0]
    assert latents.shape[:2] == (6, 9)  # guided
    masks = latents[:3, 4]
    wanted = torch.zeros(3, 8, 8)
    wanted[0, :, :4], wanted[1, :, 4:], wanted[2, :4] = 1, 1, 1
    assert torch.equal(masks, wanted) and torch.equal(latents[3:, 4], wanted)


def test_images_are_fitted_and_reach_a_controlnet_as_they_are(folders):
    source = FAMILIES["stable-diffusion-controlnet"].build()
    ((_, kwargs),) = first_calls(source, folder_conditions(source, folders / "images"), "controlnet")
    seen = kwargs["controlnet_cond"][:3]
    assert seen.shape == (3, 3, PICTURE, PICTURE)
    own = np.asarray(Image.open(folders / "images" / "a.png"), np.float32) / 255
    assert torch.allclose(seen[0], torch.from_numpy(own).permute(2, 0, 1), atol=1e-6)
    assert torch.equal(seen[2, 0], seen[2, 1])  # gray
    green = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1).expand(3, PICTURE - 4, PICTURE)
    assert torch.allclose(seen[1][:, 2:-2], green, atol=0.01)  # cropped around its centre, not squeezed


def test_ip_adapter_images_are_drawn_with_one_by_one(folders):
    """In one run diffusers would give every prompt the images of all."""
    source = FAMILIES["stable-diffusion-ip-adapter"].build()
    conditions = folder_conditions(source, folders / "images", prompts=[{"prompt": "a cat"}])
    calls = first_calls(source, conditions, "unet")
    embeds = [kwargs["added_cond_kwargs"]["image_embeds"][0] for _, kwargs in calls]
    assert [tuple(item.shape) for item in embeds] == [(2, 1, 32)] * 3  # guided, one picture
    assert not torch.allclose(embeds[0][1], embeds[1][1], atol=1e-3)
    same = [{**conditions[0], "prompt": prompt} for prompt in ("a cat", "a dog")]
    same[1]["ip_adapter_image"] = same[0]["ip_adapter_image"]
    assert len(first_calls(source, same, "unet", samples=2)) == 1


def test_films_and_pictures_start_from_the_images_of_a_folder(folders):
    video = FAMILIES["stable-video-diffusion"].build()
    conditions = folder_conditions(video, folders / "images", size=(PICTURE, PICTURE))
    few = [{**conditions[index], "num_frames": 2} for index in range(3)]
    ((args, _),) = first_calls(video, few, "unet")
    start = args[0][:, :, 4:]  # (guided films, frames, channels, height, width)
    assert start.shape == (6, 2, 4, 8, 8) and not torch.equal(start[3], start[4])
    picture = FAMILIES["stable-diffusion-image-to-image"].build()
    ((args, _),) = first_calls(picture, folder_conditions(picture, folders / "images"), "unet")
    assert args[0].shape == (6, 4, 8, 8)


def test_prompts_and_images_are_combined_in_turn(folders):
    source = FAMILIES["stable-diffusion-image-to-image"].build()
    conditions = folder_conditions(source, folders / "images", prompts=[{"prompt": "one"}, {"prompt": "two"}])
    assert [condition["prompt"] for condition in conditions] == ["one", "two", "one"]
    assert [np.asarray(item["image"]).sum() for item in conditions] == [
        np.asarray(conditions[index]["image"]).sum() for index in (0, 1, 2)
    ]
    many = folder_conditions(source, folders / "images", count=2)
    assert len(many) == len(built_in_prompts()) and many[-1]["prompt"] == built_in_prompts()[-1]
    images = {condition["image"].tobytes() for condition in (many[0], many[1], many[2], many[3])}
    assert images == {conditions[0]["image"].tobytes(), conditions[2]["image"].tobytes()}  # evenly: the first, the last


def test_the_size_that_a_pipeline_draws():
    assert default_size(FAMILIES["stable-diffusion"].build()) == (PICTURE, PICTURE)
    assert default_size(FAMILIES["stable-video-diffusion"].build()) == (1024, 576)  # by its signature
    assert default_size(FAMILIES["stable-audio"].build()) is None


def test_a_size_is_asked_of_the_pipeline_too(folders):
    source = FAMILIES["stable-diffusion-inpainting"].build()
    condition = folder_conditions(source, folders / "images", folders / "masks", size=(32, 16))[0]
    assert (condition["width"], condition["height"]) == (32, 16)
    assert condition["image"].size == condition["mask_image"].size == (32, 16)


def test_what_is_told_in_one_line(folders, tmp_path):
    inpainting = FAMILIES["stable-diffusion-inpainting"].build()
    with pytest.raises(CalibrationError, match=r"empty is no folder with image files \(.png, .jpg"):
        folder_conditions(inpainting, tmp_path / "empty")
    with pytest.raises(CalibrationError, match=r"Pipeline takes no images: .*; load an IP-Adapter first"):
        folder_conditions(FAMILIES["stable-diffusion"].build(), folders / "images")
    with pytest.raises(CalibrationError, match="StableDiffusionImg2ImgPipeline takes no masks"):
        source = FAMILIES["stable-diffusion-image-to-image"].build()
        folder_conditions(source, folders / "images", folders / "masks")
    for name in ("a", "d"):
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(CalibrationError, match=r"2 of 3 images have no mask in .*: b.png wants a file b.png"):
        folder_conditions(inpainting, folders / "images", tmp_path)
    with pytest.raises(CalibrationError, match=r"d.png is the mask of no image"):
        for name in ("b", "c"):
            Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
        folder_conditions(inpainting, folders / "images", tmp_path)
    (tmp_path / "d.png").write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match=r"d.png cannot be read as a picture"):
        check_conditions(inpainting, folder_conditions(inpainting, tmp_path))
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(CalibrationError, match="have one name, so masks cannot be told"):
        folder_conditions(inpainting, tmp_path, tmp_path)
