"""Inpainting in INT8, calibrated on a folder of pictures with masks. Offline: a tiny random pipeline."""

import sys
from pathlib import Path

from offline import tiny_pipeline
from PIL import Image, ImageDraw

import ptq4dm

# pipeline, size = ptq4dm.open_pipeline("stable-diffusion-v1-5/stable-diffusion-inpainting").source, {}
pipeline, size = tiny_pipeline("stable-diffusion-inpainting")  # the line to change

for number in range(4):  # stand-ins: put your own pictures and masks (white: paint anew) in these folders
    for folder, mode, paper, ink in (("images", "RGB", "skyblue", "orange"), ("masks", "L", "black", "white")):
        picture = Image.new(mode, (512, 512), paper)
        ImageDraw.Draw(picture).ellipse((100 * number, 100, 100 * number + 150, 300), fill=ink)
        Path(folder).mkdir(exist_ok=True)
        picture.save(f"{folder}/{number}.png")

conditions = ptq4dm.folder_conditions(pipeline, "images", "masks")  # with the package's own prompts
recipe = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 4, "steps": 8, "batch_size": 4})
model = ptq4dm.quantize(pipeline, recipe, conditions=conditions, progress=True)
model.save("inpainting-int8")

fast = model.to_pipeline(backend=sys.argv[1] if len(sys.argv) > 1 else "auto")
scene = {"image": Image.open("images/0.png"), "mask_image": Image.open("masks/0.png")}
fast("a hot air balloon", **scene, num_inference_steps=10, **size).images[0].save("inpainting.png")
