"""Quantize a diffusers pipeline, draw with it, save it. Offline: the built-in model; or name a hub id."""

import sys

from diffusers import DDIMPipeline

import ptq4dm

pipeline = ptq4dm.open_pipeline(sys.argv[1] if len(sys.argv) > 1 else "emoji-32").source
model = ptq4dm.quantize(pipeline, "w8a8-quick", progress=True)
model.save("emoji-int8")
fast = DDIMPipeline(**model.to_pipeline(backend="auto").components)
fast(batch_size=4, num_inference_steps=50).images[0].save("emoji.png")
