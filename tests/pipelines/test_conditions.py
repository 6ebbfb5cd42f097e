"""Conditions of pictures, and what may share a run."""

import pytest
import torch
from families import FAMILIES
from PIL import Image

import ptq4dm
from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.conditions import built_in_prompts, default_conditions, merge, read_prompts, run_inputs


@pytest.fixture(scope="module")
def text_to_image():
    return FAMILIES["stable-diffusion"].build()


def test_pictures_that_share_a_run_have_lists_of_prompts_and_generators_of_their_own(text_to_image):
    conditions = [{"prompt": "a cat", "guidance_scale": 5.0}, {"prompt": "a dog", "guidance_scale": 5.0}]
    inputs = run_inputs(text_to_image, conditions, seeds=[3, 4], steps=7)
    assert inputs is not None and inputs.pop("num_inference_steps") == 7
    first, second = inputs.pop("generator")
    assert inputs == {"prompt": ["a cat", "a dog"], "guidance_scale": 5.0}
    assert torch.equal(torch.randn(2, generator=first), torch.randn(2, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.randn(2, generator=second), torch.randn(2, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(
    "others",
    [
        {"prompt": "a dog", "guidance_scale": 9.0},
        {"prompt": "a dog"},
        {"prompt": "a dog", "guidance_scale": 5.0, "eta": 0.0},
    ],
)
def test_pictures_that_cannot_share_a_run(text_to_image, others):
    assert run_inputs(text_to_image, [{"prompt": "a cat", "guidance_scale": 5.0}, others], [0, 1], 2) is None


def test_what_can_be_put_together():
    rows = [torch.zeros(1, 3, 4), torch.ones(1, 3, 4)]
    (joined,) = merge("image_embeds", rows) or (None,)
    assert joined is not None and torch.equal(joined, torch.cat(rows))
    assert merge("image_embeds", [torch.zeros(1, 3), torch.zeros(1, 4)]) is None
    small, large = Image.new("RGB", (8, 8)), Image.new("RGB", (16, 8))
    assert merge("image", [small, small]) == ([small, small],)
    assert merge("image", [small, large]) is None
    assert merge("class_labels", [7]) == ([7],) and merge("class_labels", [7, 8]) == ([7, 8],)
    assert merge("strength", [0.5]) == (0.5,) and merge("strength", [0.5, 0.6]) is None


def test_defaults_are_prompts_labels_or_nothing(text_to_image):
    prompts = built_in_prompts()
    assert len(prompts) == len(set(prompts)) >= 32
    assert default_conditions(text_to_image) == [{"prompt": prompt} for prompt in prompts]
    dit = FAMILIES["dit"].build()
    labels = [condition["class_labels"] for condition in default_conditions(dit)]
    assert sorted(labels) == list(range(dit.transformer.config.num_embeds_ada_norm))
    assert default_conditions(FAMILIES["latent-diffusion"].build()) == [{}]


def test_prompts_of_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\n  a dog  \n")
    assert read_prompts(tmp_path / "prompts.txt") == [{"prompt": "a cat"}, {"prompt": "a dog"}]
    (tmp_path / "empty.txt").write_text("\n")
    for path in ("empty.txt", "none.txt", "."):
        with pytest.raises(CalibrationError, match="one prompt a line"):
            read_prompts(tmp_path / path)


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa cat\r\na caf\xc3\xa9\r\n")
    assert read_prompts(tmp_path / "prompts.txt") == [{"prompt": "a cat"}, {"prompt": "a café"}]


def test_conditions_that_can_be_read_only_once_are_refused(text_to_image):
    with pytest.raises(CalibrationError, match="are a generator: give a list"):
        ptq4dm.quantize(text_to_image, conditions=({"prompt": text} for text in ("a", "b")))  # pyright: ignore[reportArgumentType]


def test_an_unconditional_model_takes_no_conditions():
    with pytest.raises(CalibrationError, match="emoji-32 is an unconditional model and takes no conditions"):
        ptq4dm.quantize("emoji-32", conditions=[{"prompt": "a cat"}])
