"""The verdict: one sentence from the numbers, and the reasons against it in the same sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ptq4dm.recipe import CalibrationRecipe
from ptq4dm.report.words import count, decibels, percent, short_name, times

CLOSE, SIMILAR = 25.0, 18.0
"""PSNR of a picture in dB, from which a person sees nearly the same picture, and still a similar one."""
SURE: Final = 0.95
"""The least confidence of an interval of rounds that a gain in speed is claimed from: 6 rounds or more have it."""
FULL_CALIBRATION: Final = CalibrationRecipe().samples
FLOORS: Final = (
    ("call", "relative_l2_mean", "relative_l2_mean", "the error of a call is {} (at most {})", percent),
    ("call", "psnr_mean", "psnr_mean", "the PSNR of a call is {} (at least {})", decibels),
    ("pictures", "psnr_mean", "pictures_psnr_mean", "the PSNR of the pictures is {} (at least {})", decibels),
)


@dataclass(frozen=True)
class Verdict:
    """sentence: what came out. tone: `good`; `mixed` if something speaks against it; `poor` if it failed."""

    sentence: str
    tone: str


def verdict(results: Mapping[str, Any]) -> Verdict:
    """Judge a quantized model by its results; only what was measured is said."""
    faithful, gains = fidelity_words(results), gain_words(results)
    against = [*floor_words(results.get("fidelity")), *slow_words(results.get("speed"))]
    caveats = [*silent_float_words(results), *calibration_words(results)]
    subject = f"{short_name(results['model']['name'])} in INT8"
    if not faithful and not gains and not against:
        return Verdict(f"{subject} was made, but neither its pictures nor its speed were measured.", "mixed")
    parts = [part for part in (faithful, *gains) if part]
    core = ", and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 2 else " and ".join(parts)
    sentence = f"{subject} {core}" if core else f"{subject} was measured"
    if against:
        sentence += f", but {listed(against)}"
    if caveats:
        sentence += f" ({'; '.join(caveats)})"
    failed = bool(against) and not (psnr_of(results) is not None and (psnr_of(results) or 0) >= SIMILAR and gains)
    return Verdict(sentence + ".", "poor" if failed else "mixed" if against or caveats else "good")


def psnr_of(results: Mapping[str, Any]) -> float | None:
    """Mean PSNR of the pictures, None if it was not measured (or all are identical)."""
    return ((results.get("fidelity") or {}).get("pictures") or {}).get("psnr_mean")


def fidelity_words(results: Mapping[str, Any]) -> str:
    """How close the pictures are."""
    pictures = (results.get("fidelity") or {}).get("pictures")
    if not pictures:
        return ""
    psnr = pictures.get("psnr_mean")
    if psnr is None:
        return "draws the identical pictures" if pictures.get("identical") else ""
    what = "nearly the same" if psnr >= CLOSE else "similar" if psnr >= SIMILAR else "visibly different"
    return f"draws {what} pictures ({decibels(psnr)} at equal seeds)"


def gain_words(results: Mapping[str, Any]) -> list[str]:
    """What is certainly gained: speed whose interval lies above 1, and size."""
    faster = []
    speed = results.get("speed") or {}
    eager = eager_ratio(speed)
    if eager and certain(eager):
        faster.append(f"{times(eager['value'])} as fast as {eager_name(eager)}")
    fastest = hardest_ratio(speed)
    if fastest and fastest is not eager and certain(fastest):
        faster.append(f"{times(fastest['value'])} as fast as the fastest FP32 engine here")
    gains = [f"runs {listed(faster)}"] if faster else []
    size = results.get("size")
    if size and size["ratio"] > 1:
        gains.append(f"is {times(size['ratio'])} smaller")
    return gains


def slow_words(speed: Mapping[str, Any] | None) -> list[str]:
    """Baselines that INT8 does not beat, or not certainly."""
    hardest = hardest_ratio(speed or {})
    if hardest is None or certain(hardest):
        return []
    of_eager = hardest.get("baseline") == "eager"
    name = eager_name(hardest) if of_eager else f"FP32 in {hardest.get('baseline', 'float')}"
    if above_one(hardest):
        return [f"too few rounds were timed to be sure that it is faster than {name} here ({times(hardest['value'])})"]
    if hardest.get("high", hardest["value"]) < 1:
        return [f"it is slower than {name} on this machine ({times(hardest['value'])} its speed)"]
    return [f"it is not measurably faster than {name} on this machine ({times(hardest['value'])})"]


def floor_words(fidelity: Mapping[str, Any] | None) -> list[str]:
    """Figures that miss their floor."""
    floors = (fidelity or {}).get("floors") or {}
    missed = []
    for level, key, floor, words, show in FLOORS:
        value = ((fidelity or {}).get(level) or {}).get(key)
        if value is None or floors.get(floor) is None:
            continue
        worse = value > floors[floor] if key == "relative_l2_mean" else value < floors[floor]
        if worse:
            missed.append(words.format(show(value), show(floors[floor])))
    return [f"it is below its floor: {listed(missed)}"] if missed else []


def silent_float_words(results: Mapping[str, Any]) -> list[str]:
    """Quantized layers that the engine ran in float all the same."""
    executed = results.get("executed") or {}
    layers = executed.get("layers", []) if isinstance(executed, Mapping) else executed
    left = sum(not layer["int8"] for layer in layers)
    return [f"the engine ran {left} of {len(layers)} quantized layers in float"] if left else []


def calibration_words(results: Mapping[str, Any]) -> list[str]:
    """Whether the calibration was a small one, as in the demo."""
    samples = (results.get("calibration") or {}).get("samples")
    if samples and samples < FULL_CALIBRATION:
        return [f"from a small calibration of {count(samples)} samples; the default is {count(FULL_CALIBRATION)}"]
    return []


def eager_ratio(speed: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The ratio against PyTorch eager."""
    return next((ratio for ratio in speed.get("ratios") or [] if ratio.get("baseline") == "eager"), None)


def eager_name(ratio: Mapping[str, Any] | None) -> str:
    """PyTorch eager, with its float type if that is another than FP32."""
    precision = (ratio or {}).get("precision") or "FP32"
    return "PyTorch eager" if precision == "FP32" else f"PyTorch eager in {precision}"


def hardest_ratio(speed: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The ratio against the fastest float engine."""
    return min(speed.get("ratios") or [], key=lambda ratio: ratio["value"], default=None)


def certain(ratio: Mapping[str, Any]) -> bool:
    """Whether even the low end of the interval is a gain, and the interval one to rely on."""
    return above_one(ratio) and (ratio.get("confidence") or 0.0) >= SURE


def above_one(ratio: Mapping[str, Any]) -> bool:
    """Whether the ratio and its interval, as far as there is one, are gains."""
    return ratio["value"] > 1 and (ratio.get("low") or ratio["value"]) > 1


def listed(items: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
