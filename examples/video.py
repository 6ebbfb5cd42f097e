"""Text to video in INT8. Offline a tiny random pipeline; for the real one change the line that says so."""

import sys

from diffusers.utils import export_to_gif
from offline import tiny_pipeline

import ptq4dm

recipe = ptq4dm.load_recipe("w8a8-quick").replace(calibration={"batch_size": 1})  # films drawn at once
# pipeline, size = ptq4dm.open_pipeline("Wan-AI/Wan2.1-T2V-1.3B-Diffusers").source, {"height": 480, "width": 832}
pipeline, size, recipe = tiny_pipeline("wan")  # the line to change (its recipe takes seconds)

prompts = ("a cat runs", "rain on a lake")
model = ptq4dm.quantize(pipeline, recipe, conditions=[{"prompt": text, **size} for text in prompts], progress=True)
model.save("video-int8")

fast = model.to_pipeline(backend=sys.argv[1] if len(sys.argv) > 1 else "auto")
film = fast("a dog jumps", num_inference_steps=10, output_type="pil", **size).frames[0]
export_to_gif(film, "video.gif")
