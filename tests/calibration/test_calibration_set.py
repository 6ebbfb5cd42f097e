import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_pipeline

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.errors import ArtifactError, CalibrationError
from ptq4dm.pipelines.pipeline import open_pipeline


def make(samples=5, **facts):
    generator = torch.Generator().manual_seed(0)
    return CalibrationSet(
        torch.randn(samples, 3, 4, 4, generator=generator),
        torch.arange(samples) * 100,
        torch.arange(samples) * 100 + 7,
        {"model": "test", "model_fingerprint": "f" * 16, "seconds": 1.5, **facts},
    )


def rewrite(path, change_tensors=lambda tensors: None, **metadata):
    with safe_open(path, framework="pt") as file:
        tensors, kept = {name: file.get_tensor(name) for name in list(file.keys())}, dict(file.metadata())
    change_tensors(tensors)
    save_file(tensors, path, {**kept, **metadata})


def test_saved_and_loaded(tmp_path):
    saved = make()
    saved.save(tmp_path / "set.safetensors")
    loaded = CalibrationSet.load(tmp_path / "set.safetensors")
    assert all(torch.equal(tensor, loaded.tensors()[name]) for name, tensor in saved.tensors().items())
    assert loaded.facts == saved.facts and loaded.fingerprint == saved.fingerprint and len(loaded) == 5


def test_calls_cover_every_sample_once_with_its_time_step():
    found = make(5)
    calls = list(found.calls(2))
    assert [len(timesteps) for _, timesteps in calls] == [2, 2, 1]
    assert torch.equal(torch.cat([call.args[0] for call, _ in calls]), found.x_t)
    assert torch.equal(torch.cat([call.args[1] for call, _ in calls]), found.timesteps)
    assert all(torch.equal(call.args[1], timesteps) and not call.kwargs for call, timesteps in calls)


def test_fingerprint_sees_every_change_but_the_time_it_took():
    same, other_facts = make(seconds=99.0), make(seed=1)
    moved = make()
    moved.x_t[0, 0, 0, 0] += 1e-6
    relabelled = make()
    relabelled.timesteps[0] += 1
    fingerprints = [found.fingerprint for found in (make(), other_facts, moved, relabelled)]
    assert same.fingerprint == fingerprints[0] and len(set(fingerprints)) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is damaged or no safetensors file"),
        (lambda path: rewrite(path, lambda t: t["x_t"].view(-1)[3:4].add_(1)), "was changed after it was written"),
        (lambda path: rewrite(path, lambda t: t["timesteps"][-1:].add_(1)), "was changed after it was written"),
        (lambda path: rewrite(path, facts=json.dumps({"seed": 5})), "was changed after it was written"),
        (lambda path: rewrite(path, facts="{"), "is damaged"),
        (lambda path: rewrite(path, lambda t: t.pop("drawn")), "is damaged"),
        (lambda path: rewrite(path, lambda t: t["x_t"].fill_(torch.nan)), "is damaged"),
        (lambda path: rewrite(path, format_version="2"), "has calibration-set format 2, and this ptq4dm reads 1"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "is no calibration set"),
    ],
)
def test_damaged_files(tmp_path, damage, message):
    path = tmp_path / "set.safetensors"
    make().save(path)
    damage(path)
    with pytest.raises(ArtifactError, match=message) as caught:
        CalibrationSet.load(path)
    assert str(path) in str(caught.value)


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        make().save(tmp_path / "file" / "set.safetensors")


def test_a_set_of_another_model_names_both():
    pipeline, other = open_pipeline(tiny_pipeline(size=4)), open_pipeline(tiny_pipeline(size=4, seed=1))
    found = make(model_fingerprint=pipeline.fingerprint)
    found.check_model(pipeline)
    with pytest.raises(CalibrationError, match="is of another model") as caught:
        found.check_model(other)
    assert pipeline.fingerprint in str(caught.value) and other.fingerprint in str(caught.value)


def test_a_set_that_does_not_fit_its_model_is_refused():
    pipeline = open_pipeline(tiny_pipeline(size=4))
    late = CalibrationSet(torch.zeros(1, 3, 4, 4), torch.tensor([5000]), torch.tensor([5000]),
                          {"model_fingerprint": pipeline.fingerprint})  # fmt: skip
    with pytest.raises(CalibrationError, match="time-steps from 5000 to 5000, DDPMPipeline has 0 to 999"):
        late.check_model(pipeline)
    large = CalibrationSet(torch.zeros(1, 3, 8, 8), torch.tensor([5]), torch.tensor([5]), late.facts)
    with pytest.raises(CalibrationError, match=r"x_t of \(3, 8, 8\), DDPMPipeline takes \(3, 4, 4\)"):
        large.check_model(pipeline)


@pytest.mark.parametrize(
    ("x_t", "timesteps", "message"),
    [
        (torch.zeros(0, 3, 4, 4), torch.zeros(0), "zero samples"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3), "give one time-step a sample"),
        (torch.full((2, 3, 4, 4), torch.inf), torch.zeros(2), "x_t of 2 of 2 samples holds NaN or infinity"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0.0, torch.nan]), "timesteps of 1 of 2 samples holds NaN"),
    ],
)
def test_impossible_sets(x_t, timesteps, message):
    with pytest.raises(CalibrationError, match=message):
        CalibrationSet(x_t, timesteps, torch.zeros(len(timesteps), dtype=torch.int64), {})
