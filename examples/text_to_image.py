"""Text to image in INT8. Offline a tiny random pipeline; for the real one change the line that says so."""

import sys

from offline import tiny_pipeline

import ptq4dm

recipe = ptq4dm.load_recipe("w8a8-quick").replace(calibration={"batch_size": 4})  # pictures drawn at once
# pipeline, size = ptq4dm.open_pipeline("stable-diffusion-v1-5/stable-diffusion-v1-5").source, {}
pipeline, size, recipe = tiny_pipeline("stable-diffusion")  # the line to change (its recipe takes seconds)

model = ptq4dm.quantize(pipeline, recipe, progress=True)  # on the package's own prompts
model.save("text-to-image-int8")

fast = model.to_pipeline(backend=sys.argv[1] if len(sys.argv) > 1 else "auto")
fast("a lighthouse on a cliff at night", num_inference_steps=10, **size).images[0].save("text_to_image.png")
