"""At which time-steps to calibrate: one, uniform, normal and skew normal laws, clipped or drawn again.

Laws are read off one sweep (`ranges.laws`). One time-step alone is calibrated on samples of its own, so that nothing
of it, the smoothing of channels included, has seen another; it is compared with as many samples of the default law. The
released code of the paper counts the kept sample from the wrong
end of the trajectory, so that a noisy picture is labelled with a clean time-step: that row, a known fault, is
calibrated on the wrong pairs themselves, and compared with right pairs of the same trajectories.
"""

from collections.abc import Sequence
from typing import Any, Final

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.studies.cases import Case, recipe_case, set_case
from ptq4dm.studies.samples import few_of, few_samples
from ptq4dm.studies.study import Study
from ptq4dm.studies.variants import AS_MANY, UNIFORM_AS_MANY

WIDTH: Final = 0.2
"""Scale of the normal laws whose location is varied, as a fraction of T."""
LOCATIONS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
SKEW: Final = tuple(
    (location, scale, shape) for location in (0.2, 0.6) for scale in (0.2, 0.6) for shape in (-4.0, 4.0)
)
FAULT: Final = "known fault of the paper's released code: x_t and t paired mirror-wise; compared with right pairs"


def timesteps(study: Study) -> Sequence[Case]:
    """A case for each law."""
    quick = study.settings.quick
    last = study.pipeline.num_train_timesteps - 1
    laws: dict[str, tuple[str, dict[str, Any]]] = {
        "uniform": ("uniform", {}),
    }
    for location in LOCATIONS[::4] if quick else LOCATIONS:
        laws[f"normal, μ = {location:g} T, σ = {WIDTH:g} T"] = ("ndtc", {"location": location, "scale": WIDTH})
    for location, scale, shape in SKEW[1:2] if quick else SKEW:
        name = f"skew normal, ξ = {location:g} T, ω = {scale:g} T, α = {shape:g}".replace("-", "−")
        laws[name] = ("ndtc", {"location": location, "scale": scale, "shape": shape})
    laws["NDTC, resampled instead of clipped"] = ("ndtc", {"overflow": "resample"})
    cases = [
        recipe_case(study, "timesteps", name, {"calibration": {"timesteps": law, "law_options": options}})
        for name, (law, options) in laws.items()
    ]
    few = few_of(study, "timesteps", AS_MANY)
    middle = {} if quick else {f"middle: t = {round(last / 2)}": round(last / 2)}
    ones = {"start: t = 0": 0, **middle, f"end: t = {last}": last}
    single = [one_case(study, name, t, few) for name, t in ones.items()]
    single.append(uniform_case(study, few))
    right = pairs_case(study, "NDTC, right pairs of the same trajectories", False, None, "")
    return [few, *single, *cases, right, pairs_case(study, "NDTC, mirror-wise pairs", True, right, FAULT)]


def one_case(study: Study, name: str, t: int, few: Case) -> Case:
    """Calibrated at one time-step alone: smoothing, ranges and rounding."""
    options, samples = {"t": t}, few_samples(study)
    how = {"law": "single", **options, "samples": samples}

    def collected() -> CalibrationSet:
        return study.collected(timesteps="single", law_options=options, samples=samples)

    note = f"{samples} samples of its own, compared with as many of the default law"
    return set_case(study, "timesteps", name, how, collected, baseline=few, note=note)


def uniform_case(study: Study, few: Case) -> Case:
    """Uniform time-steps on as many samples as one time-step has, of the swept trajectories."""
    samples, seed, total = few_samples(study), study.settings.seed, study.pipeline.num_train_timesteps
    how = {"law": "uniform", "of": "pool", "samples": samples}

    def collected() -> CalibrationSet:
        return study.pool.under("uniform", {}, samples, seed, total)

    return set_case(study, "timesteps", UNIFORM_AS_MANY, how, collected, baseline=few)


def pairs_case(study: Study, name: str, mirrored: bool, baseline: Case | None, note: str) -> Case:
    """The default law on samples of the swept trajectories, paired right or mirror-wise."""
    own = study.recipe.calibration
    samples = few_samples(study)
    how = {"mirrored": mirrored, "law": str(own.timesteps), "samples": samples}

    def collected() -> CalibrationSet:
        total = study.pipeline.num_train_timesteps
        return study.pool.under(own.timesteps, own.law_options, samples, own.seed, total, mirrored)

    return set_case(study, "timesteps", name, how, collected, baseline=baseline, note=note)
