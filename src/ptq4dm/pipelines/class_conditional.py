"""A diffusers pipeline that draws pixels of given classes, which diffusers lacks for networks of DDPM with classes.

The class-conditional checkpoints of improved-diffusion and guided-diffusion draw with it (no classifier guidance).
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

from ptq4dm.pipelines.sampling import advance, require_known_times, to_picture


class ClassConditionalDDPMPipeline(DiffusionPipeline):
    """Draws one picture for each class label, with any scheduler; predicted variances count with DDPM only.

    Args:
        unet: a `UNet2DModel` with `num_class_embeds`.
        scheduler: a scheduler with betas.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int],
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 250,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Draw. output_type: `pil`, `np` (n, height, width, channels) in [0, 1], or `pt` (n, channels, height, width).

        Raises RecipeError for a scheduler that the network cannot follow.
        """
        labels = torch.tensor([class_labels] if isinstance(class_labels, int) else list(class_labels))
        config = self.unet.config
        shape = (len(labels), config["in_channels"], config["sample_size"], config["sample_size"])
        x = randn_tensor(shape, generator=generator, device=self.unet.device, dtype=self.unet.dtype)
        generators = [generator] * len(labels) if isinstance(generator, torch.Generator) else generator
        self.scheduler.set_timesteps(num_inference_steps)
        require_known_times(self.unet, self.scheduler.timesteps)
        x = x * float(self.scheduler.init_noise_sigma)
        shown: Any = self.progress_bar
        for timestep in shown(self.scheduler.timesteps):
            x_t = self.scheduler.scale_model_input(x, timestep)
            output = self.unet(x_t, timestep, class_labels=labels.to(x.device)).sample
            x = advance(self.scheduler, output, timestep, x, generators)
        pictures = to_picture(x)
        if output_type != "pt":
            arrays = pictures.permute(0, 2, 3, 1).numpy()
            pictures = self.numpy_to_pil(arrays) if output_type == "pil" else arrays
        return ImagePipelineOutput(images=pictures) if return_dict else (pictures,)  # pyright: ignore[reportArgumentType] (tensors too)
