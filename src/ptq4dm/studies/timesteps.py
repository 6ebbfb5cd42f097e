"""At which time-steps to calibrate: one, uniform, normal and skew normal laws, clipped or drawn again.

All laws are read off one sweep (`ranges.laws`). The released code of the paper counts the kept sample from the wrong
end of the trajectory, so that a noisy picture is labelled with a clean time-step: that row, a known fault, is
calibrated on the wrong pairs themselves.
"""

from collections.abc import Sequence
from typing import Any, Final

from ptq4dm.studies.cases import Case, recipe_case, set_case
from ptq4dm.studies.study import FEEDBACK_SAMPLES, Study

WIDTH: Final = 0.2
"""Scale of the normal laws whose location is varied, as a fraction of T."""
LOCATIONS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
SKEW: Final = tuple(
    (location, scale, shape) for location in (0.2, 0.6) for scale in (0.2, 0.6) for shape in (-4.0, 4.0)
)
FAULT: Final = "known fault of the paper's released code: x_t and t paired mirror-wise"


def timesteps(study: Study) -> Sequence[Case]:
    """A case for each law."""
    quick = study.settings.quick
    last = study.pipeline.num_train_timesteps - 1
    laws: dict[str, tuple[str, dict[str, Any]]] = {
        "start: t = 0": ("single", {"t": 0}),
        f"middle: t = {round(last / 2)}": ("single", {"t": 0.5}),
        f"end: t = {last}": ("single", {"t": last}),
        "uniform": ("uniform", {}),
    }
    for location in LOCATIONS[::4] if quick else LOCATIONS:
        laws[f"normal, μ = {location:g} T, σ = {WIDTH:g} T"] = ("ndtc", {"location": location, "scale": WIDTH})
    for location, scale, shape in SKEW[1:3] if quick else SKEW:
        name = f"skew normal, ξ = {location:g} T, ω = {scale:g} T, α = {shape:g}".replace("-", "−")
        laws[name] = ("ndtc", {"location": location, "scale": scale, "shape": shape})
    laws["NDTC, resampled instead of clipped"] = ("ndtc", {"overflow": "resample"})
    cases = [
        recipe_case(study, "timesteps", name, {"calibration": {"timesteps": law, "law_options": options}})
        for name, (law, options) in laws.items()
    ]
    own = study.recipe.calibration
    how = {"mirrored": True, "law": str(own.timesteps), "samples": FEEDBACK_SAMPLES}
    mirrored = set_case(
        study,
        "timesteps",
        "NDTC, mirror-wise pairs",
        how,
        lambda: study.law_set(own.timesteps, own.law_options, mirrored=True),
        note=FAULT,
    )
    return [*cases, mirrored]
