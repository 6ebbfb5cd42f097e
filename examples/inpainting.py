"""Inpainting in INT8, calibrated on a folder of pictures with masks. Offline: a tiny random pipeline."""

import sys
from pathlib import Path

from offline import tiny_pipeline
from PIL import Image, ImageDraw

import ptq4dm

recipe = ptq4dm.load_recipe("w8a8-quick").replace(calibration={"batch_size": 4})  # pictures drawn at once
# pipeline, size = ptq4dm.open_pipeline("stable-diffusion-v1-5/stable-diffusion-inpainting").source, {}
pipeline, size, recipe = tiny_pipeline("stable-diffusion-inpainting")  # the line to change (its recipe takes seconds)

stand_ins = (("images", "RGB", "skyblue", "orange"), ("masks", "L", "black", "white"))
if any(Path(folder).exists() for folder, *_ in stand_ins):  # your own, masks named as their images (white: paint anew)
    stand_ins = ()
for folder, mode, paper, ink in stand_ins:
    Path(folder).mkdir()
    for number in range(4):
        picture = Image.new(mode, (512, 512), paper)
        ImageDraw.Draw(picture).ellipse((100 * number, 100, 100 * number + 150, 300), fill=ink)
        picture.save(f"{folder}/{number}.png")

conditions = ptq4dm.folder_conditions(pipeline, "images", "masks")  # with the package's own prompts
model = ptq4dm.quantize(pipeline, recipe, conditions=conditions, progress=True)
model.save("inpainting-int8")

fast = model.to_pipeline(backend=sys.argv[1] if len(sys.argv) > 1 else "auto")
scene = {name: conditions[0][name] for name in ("image", "mask_image")}
fast("a hot air balloon", **scene, num_inference_steps=10, **size).images[0].save("inpainting.png")
