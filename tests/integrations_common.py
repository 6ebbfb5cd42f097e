"""What the tests of diffusers' own loading share."""

import json

import torch

import ptq4dm

QUICK = ptq4dm.load_recipe("w8a8-minmax").replace(calibration={"samples": 4, "steps": 4})


def call(network, dtype=torch.float32):
    """One call of a tiny unconditional network."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        return network(x, torch.tensor(500)).sample


def drawn(pipeline, **kwargs):
    """Two pictures of a tiny unconditional pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    return pipeline(batch_size=2, num_inference_steps=3, generator=generator, output_type="np", **kwargs).images


def edit(path, **changes):
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
