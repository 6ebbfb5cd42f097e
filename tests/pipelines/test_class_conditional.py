import pytest
import torch
from papers.improved import Settings, random_weights

import ptq4dm
from ptq4dm.errors import ModelError
from ptq4dm.pipelines.class_conditional import ClassConditionalDDPMPipeline
from ptq4dm.pipelines.sampling import seeded_start, to_picture, trajectory

FLAGS = 'repository = "guided-diffusion"\nimage_size = 8\ndiffusion_steps = 50\nnoise_schedule = "cosine"\n'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("classes") / "model.pt"
    torch.save(random_weights(Settings(mult=(1,), attention=(1,), classes=5)), path)
    path.with_suffix(".toml").write_text(FLAGS)
    return path


def drawn(pipe, labels=(1, 4)):
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 5)]
    return pipe(list(labels), generator=generators, num_inference_steps=4, output_type="pt").images


class OfClasses(torch.nn.Module):
    """A network with its labels given once."""

    def __init__(self, unet, labels):
        super().__init__()
        self.unet, self.labels = unet, torch.tensor(labels)

    def forward(self, x, t):
        return self.unet(x, t, class_labels=self.labels)


def test_it_draws_what_our_own_loop_draws(checkpoint):
    pipe = ptq4dm.convert_checkpoint(checkpoint)
    assert isinstance(pipe, ClassConditionalDDPMPipeline)
    walk = trajectory(OfClasses(pipe.unet, [1, 4]), pipe.scheduler, 4, *seeded_start((3, 8, 8), [3, 5]))
    try:
        while True:
            next(walk)
    except StopIteration as end:
        expected = to_picture(end.value)
    pictures = drawn(pipe)
    assert torch.equal(pictures, expected) and not torch.equal(pictures, drawn(pipe, (1, 2)))
    one = pipe(2, generator=torch.Generator().manual_seed(0), num_inference_steps=2).images
    assert one[0].size == (8, 8)


def test_from_the_checkpoint_to_a_saved_int8_pipeline(checkpoint, tmp_path):
    ptq4dm.convert_checkpoint(checkpoint).save_pretrained(tmp_path / "model")
    pipeline = ptq4dm.open_pipeline(tmp_path / "model")
    pictures = drawn(pipeline.source)
    with pytest.raises(ModelError, match="its unet wants class labels"):
        _ = pipeline.picture_shape
    recipe = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 6, "steps": 4}, float_share=0.0)
    model = ptq4dm.quantize(pipeline, recipe)  # all class labels, in a drawn order
    int8 = drawn(model.to_pipeline("simulated"))
    assert 0 < float((int8 - pictures).abs().mean()) < 0.1
    again = ptq4dm.load(model.save(tmp_path / "int8"))
    assert torch.equal(drawn(again.to_pipeline("simulated")), int8)
