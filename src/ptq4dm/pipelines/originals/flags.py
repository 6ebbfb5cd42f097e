"""The flags of improved-diffusion and guided-diffusion: what their weights do not tell, under the original names.

Flags that the weights do tell (`num_channels` and the like) may be given too: they are compared. Flags of training
alone are accepted, so that a command line can be copied, and have no effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, get_args

from ptq4dm.errors import ModelError

REPOSITORIES: Final[dict[str, dict[str, Any]]] = {
    "improved-diffusion": {"rescale_timesteps": True},
    "guided-diffusion": {"rescale_timesteps": False},
}
"""The defaults in which the two differ."""
NOISE_SCHEDULES: Final = ("linear", "cosine")


@dataclass(frozen=True)
class Flags:
    """How a network was made and trained. repository: whose defaults fill what is not given."""

    repository: str
    image_size: int = 64
    num_heads: int = 4
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    use_new_attention_order: bool = False
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    rescale_timesteps: bool = True
    predict_xstart: bool = False
    sigma_small: bool = False
    num_channels: int | None = None
    num_res_blocks: int | None = None
    channel_mult: str | None = None
    attention_resolutions: str | None = None
    learn_sigma: bool | None = None
    class_cond: bool | None = None
    use_scale_shift_norm: bool | None = None
    resblock_updown: bool | None = None
    dropout: float | None = None
    use_checkpoint: bool | None = None
    use_fp16: bool | None = None
    use_kl: bool | None = None
    rescale_learned_sigmas: bool | None = None
    timestep_respacing: str | None = None


def read_flags(values: Mapping[str, Any], where: str) -> Flags:
    """Flags of plain data. Raises ModelError, naming `where`: an unknown key, another type, a value out of range."""
    repository = values.get("repository")
    if repository not in REPOSITORIES:
        raise ModelError(
            f"{where}: repository = {repository!r} should be one of {', '.join(REPOSITORIES)}: whose defaults count"
        )
    known: dict[str, Any] = {item.name: (get_args(item.type) or (item.type,))[0] for item in fields(Flags)}
    for key, value in values.items():
        if key not in known:
            raise ModelError(f"{where}: unknown flag {key!r}: accepted are {', '.join(known)}")
        if type(value) is not known[key] and (type(value), known[key]) != (int, float):
            raise ModelError(f"{where}: {key} = {value!r} should be of type {known[key].__name__}")
    flags = Flags(**{**REPOSITORIES[repository], **values})
    if flags.noise_schedule not in NOISE_SCHEDULES:
        raise ModelError(
            f"{where}: noise_schedule = {flags.noise_schedule!r}: accepted are {', '.join(NOISE_SCHEDULES)}"
        )
    for name in ("image_size", "num_heads", "diffusion_steps"):
        if getattr(flags, name) < 1:
            raise ModelError(f"{where}: {name} = {getattr(flags, name)} should be at least 1")
    return flags


def require_agreement(flags: Flags, told: Mapping[str, Any], where: str) -> None:
    """Raise ModelError at a flag that says other than what the weights tell."""
    for name, value in told.items():
        given = getattr(flags, name)
        if given is not None and given != "" and given != value:
            raise ModelError(f"{where}: {name} = {given!r}, but the weights are those of {name} = {value!r}")
