"""The published checkpoints of improved-diffusion and guided-diffusion, by the names of their files.

The flags are those that the repositories' own pages give for them (github.com/openai/improved-diffusion,
github.com/openai/guided-diffusion; both MIT), without those of training.
"""

from typing import Any, Final

IMPROVED: Final = {"repository": "improved-diffusion", "num_channels": 128, "learn_sigma": True}
COSINE_4000: Final = {"diffusion_steps": 4000, "noise_schedule": "cosine"}
CIFAR_10: Final = {**IMPROVED, **COSINE_4000, "image_size": 32, "num_res_blocks": 3}
IMAGENET_64: Final = {**IMPROVED, **COSINE_4000, "image_size": 64, "num_res_blocks": 3}
LSUN_IMPROVED: Final = {
    **IMPROVED, "image_size": 256, "num_res_blocks": 2, "num_heads": 1, "use_scale_shift_norm": False,
    "attention_resolutions": "16", "rescale_timesteps": False,
}  # fmt: skip
GUIDED: Final = {
    "repository": "guided-diffusion", "attention_resolutions": "32,16,8", "learn_sigma": True, "num_head_channels": 64,
    "resblock_updown": True, "use_scale_shift_norm": True, "num_channels": 256, "num_res_blocks": 2,
}  # fmt: skip
LSUN_GUIDED: Final = {**GUIDED, "image_size": 256, "class_cond": False}

PUBLISHED: Final[dict[str, dict[str, Any]]] = {
    "cifar10_uncond_50M_500K": CIFAR_10,
    "cifar10_uncond_vlb_50M_500K": CIFAR_10,
    "imagenet64_uncond_100M_1500K": IMAGENET_64,
    "imagenet64_uncond_vlb_100M_1500K": IMAGENET_64,
    "imagenet64_cond_270M_250K": {**IMAGENET_64, "num_channels": 192, "class_cond": True, "rescale_timesteps": False},
    "lsun_uncond_100M_1200K_bs128": LSUN_IMPROVED,
    "lsun_uncond_100M_2400K_bs64": LSUN_IMPROVED,
    "64x64_diffusion": {
        **GUIDED, "image_size": 64, "class_cond": True, "noise_schedule": "cosine", "num_channels": 192,
        "num_res_blocks": 3, "use_new_attention_order": True,
    },
    "128x128_diffusion": {
        **GUIDED, "image_size": 128, "class_cond": True, "num_head_channels": -1, "num_heads": 4,
    },
    "256x256_diffusion": {**GUIDED, "image_size": 256, "class_cond": True},
    "256x256_diffusion_uncond": {**GUIDED, "image_size": 256, "class_cond": False},
    "512x512_diffusion": {**GUIDED, "image_size": 512, "class_cond": True},
    "lsun_bedroom": LSUN_GUIDED,
    "lsun_cat": LSUN_GUIDED,
    "lsun_horse": LSUN_GUIDED,
    "lsun_horse_nodropout": LSUN_GUIDED,
}  # fmt: skip
