import pytest
import torch
from diffusers import DDPMScheduler

from ptq4dm.errors import RecipeError
from ptq4dm.pipelines.schedulers import SCHEDULERS, make_scheduler, set_steps


@pytest.mark.parametrize("name", SCHEDULERS)
def test_keeps_the_betas_and_the_prediction_type_of_the_model(name):
    own = DDPMScheduler(num_train_timesteps=600, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    scheduler = make_scheduler(name, own.config)
    torch.testing.assert_close(scheduler.alphas_cumprod, own.alphas_cumprod)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.num_train_timesteps == 600


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_built_and_a_loaded_pipeline_visit_the_same_time_steps(tmp_path, name):
    built = DDPMScheduler()
    built.save_pretrained(tmp_path)
    visits = []
    for own in (built, DDPMScheduler.from_pretrained(tmp_path)):
        scheduler = make_scheduler(name, own.config)
        set_steps(scheduler, 50)
        visits.append(scheduler.timesteps.tolist())
    assert visits[0] == visits[1]


def test_the_name_decides_the_algorithm():
    own = {"num_train_timesteps": 1000, "beta_schedule": "linear", "algorithm_type": "sde-dpmsolver++"}
    assert make_scheduler("dpmsolver++", own).config.algorithm_type == "dpmsolver++"


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prediction_type": "magic"}, r"prediction_type 'magic': it takes epsilon, (sample, )?v_prediction"),
        ({"beta_schedule": "magic"}, "'\\w+.*' cannot be made of the model's scheduler config .*magic"),
        ({"num_train_timesteps": "many"}, "cannot be made of the model's scheduler config"),
    ],
)
def test_a_config_that_no_scheduler_takes_is_told(name, config, message):
    with pytest.raises(RecipeError, match=message):
        make_scheduler(name, config)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "pndm"])
def test_a_time_step_beyond_the_last_is_refused(name):
    """Of an offset of 1, which many models have, the last of all 1000 steps."""
    scheduler = make_scheduler(name, {"timestep_spacing": "leading", "steps_offset": 1, "skip_prk_steps": True})
    set_steps(scheduler, 500)
    with pytest.raises(RecipeError, match="steps_offset = 1 would visit time-step 1000: accepted are 0 to 999"):
        set_steps(scheduler, 1000)


def test_betas_of_the_usual_number_need_not_say_it():
    """A config may leave num_train_timesteps at its default, as in a file that was written by hand."""
    own = torch.linspace(0.0001, 0.02, 1000).tolist()
    assert make_scheduler("ddim", {"trained_betas": own}).config.num_train_timesteps == 1000


def test_pndm_does_not_take_a_predicted_picture_for_noise():
    with pytest.raises(RecipeError, match="'pndm' cannot follow the model's prediction_type 'sample'"):
        make_scheduler("pndm", {"prediction_type": "sample"})


def test_unknown_name():
    with pytest.raises(RecipeError, match=r"unknown scheduler 'heun': accepted are ddpm, ddim, pndm, dpmsolver\+\+"):
        make_scheduler("heun", {})
