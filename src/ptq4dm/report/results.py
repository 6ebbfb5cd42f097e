"""Read results.json and refuse what the page cannot be drawn from, before anything is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ptq4dm.errors import ArtifactError
from ptq4dm.files import read_json

FORMAT_VERSION: Final = 1
RESULTS: Final = "results.json"

REQUIRED: Final[dict[str, dict[str, type]]] = {
    **{
        section: {}
        for section in (
            "recipe",
            "calibration",
            "fidelity",
            "speed",
            "memory",
            "distribution",
            "environment",
            "float_by_method",
        )
    },
    "model": {"name": str},
    "size": {"float_bytes": float, "int8_bytes": float, "ratio": float},
    "fidelity.call": {"relative_l2_mean": float},
    "fidelity.call.curve": {"t": list, "relative_l2": list},
    "fidelity.pictures": {"n": float},
    "plan[]": {"name": str, "kind": str, "quantized": bool, "reason": str},
    "executed.layers[]": {"layer": str, "type": str, "int8": bool},
    "layers[]": {"name": str, "relative_l2": float},
    "activation_ranges[]": {"layer": str, "t": list, "min": list, "max": list, "low": float, "high": float},
    "distribution.rows[]": {"measure": str, "float": float, "int8": float, "difference": float},
    "speed.rows[]": {"engine": str, "precision": str, "seconds_median": float},
    "speed.ratios[]": {"name": str, "value": float},
    "speed.predicted_limit": {"int8_share": float, "processor_ratio": float, "limit": float},
    "speed.sampling.rows[]": {"engine": str, "precision": str, "seconds_median": float},
    "speed.sampling.ratios[]": {"name": str, "value": float},
    "memory.rows[]": {"name": str, "peak_bytes": float},
    "calibration.step_weights": {
        "timesteps": list,
        "weights": list,
        "measured": list,
        "standard_errors": list,
        "power": float,
        "calls_made": float,
        "draft_calls": float,
    },
    "pictures": {"float": str, "int8": str, "tile": list, "columns": float, "count": float},
}
"""What each part must hold, if it is there at all; `[]` is every entry of a list."""

KINDS: Final[dict[str, dict[str, type]]] = {
    "": {"commands": list, "notes": list, "plan": list, "layers": list, "activation_ranges": list},
    "model": {"class": str, "parameters": float, "picture_shape": list, "fingerprint": str, "artifact": str},
    "calibration": {
        "samples": float,
        "law_options": dict,
        "num_train_timesteps": float,
        "drawn_timesteps": list,
        "visited_timesteps": list,
        "calls_made": float,
        "calls_saved": float,
        "sensitivity_calls": float,
        "seconds": float,
        "peak_memory_bytes": float,
    },
    "plan[]": {"macs": float},
    "fidelity": {"floors": dict, "aims": dict, "simulated": dict},
    "fidelity.call": {"n": float, "psnr_mean": float},
    "fidelity.call.curve": {"psnr": list},
    "fidelity.pictures": {"psnr": list, "identical": float, "perceptual_mean": float},
    "fidelity.simulated": {"relative_l2_mean": float, "psnr_mean": float, "pictures_psnr_mean": float},
    "fidelity.floors": {"relative_l2_mean": float, "psnr_mean": float, "pictures_psnr_mean": float},
    "fidelity.aims": {"relative_l2_mean": float, "psnr_mean": float, "pictures_psnr_mean": float},
    "activation_ranges[]": {"p01": list, "p99": list},
    "distribution": {"rows": list, "n": float},
    "distribution.rows[]": {"low": float, "high": float, "detectable": float},
    "speed": {"rows": list, "ratios": list, "rounds": float},
    "speed.rows[]": {"seconds_low": float, "seconds_high": float},
    "speed.ratios[]": {"low": float, "high": float, "baseline": str, "precision": str},
    "speed.sampling": {"rows": list, "ratios": list, "rounds": float},
    "speed.sampling.rows[]": {"seconds_low": float, "seconds_high": float},
    "speed.sampling.ratios[]": {"low": float, "high": float, "baseline": str},
    "memory": {"rows": list},
    "memory.rows[]": {"device": str},
    "executed.layers[]": {"int8_ms": float, "float_ms": float, "tile": str, "reason": str},
}
"""Of what kind other values are, those that are there."""

ALIGNED: Final = {
    "fidelity.call.curve": ("relative_l2", "psnr"),
    "activation_ranges[]": ("min", "max", "p01", "p99"),
}
"""Lists that go with the list `t` of the same part, entry by entry."""


def load_results(folder: Path) -> dict[str, Any]:
    """Read and check `results.json` of a folder. Raises ArtifactError with the part that is wrong and the mend."""
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise ArtifactError(f"no {RESULTS} in {folder}: name a folder that `ptq4dm evaluate` or `ptq4dm demo` wrote")
    return checked(read_json(path), path)


def checked(results: Any, path: Path) -> dict[str, Any]:
    """Give back `results` without what is null, if the page can be drawn from them. Raises ArtifactError."""
    if not isinstance(results, dict):
        raise ArtifactError(f"{path} holds a {type(results).__name__}, not an object: evaluate again")
    results = without_nulls(results)
    version = results.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        mend = "update ptq4dm" if newer else "evaluate again"
        raise ArtifactError(f"{path} has format_version {version!r}, this ptq4dm reads {FORMAT_VERSION}: {mend}")
    if not isinstance(results.get("model"), dict):
        raise ArtifactError(f"{path} does not say which model it is of (key 'model'): evaluate again")
    for where, keys in REQUIRED.items():
        for number, part in enumerate(find(results, where)):
            check_part(part, keys, where.replace("[]", f"[{number}]"), path)
    for where, keys in KINDS.items():
        for number, part in enumerate(find(results, where) if where else [results]):
            there = {key: kind for key, kind in keys.items() if isinstance(part, Mapping) and part.get(key) is not None}
            check_part(part, there, where.replace("[]", f"[{number}]") or "the file", path)
    for where, keys in ALIGNED.items():
        for part in find(results, where):
            lengths = {key: len(part[key]) for key in ("t", *keys) if key in part}
            if len(set(lengths.values())) > 1:
                raise ArtifactError(f"{path}: the lists of {where} differ in length ({lengths}): evaluate again")
    return results


def without_nulls(value: Any) -> Any:
    """Nested data without the keys whose value is null, but for the mean PSNR of identical pictures, which is null."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None or key == "psnr_mean"}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def find(results: Mapping[str, Any], where: str) -> Sequence[Any]:
    """The parts at a dotted place: none if it is absent or null, all entries for a place that ends in `[]`."""
    value: Any = results
    for key in where.removesuffix("[]").split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        return []
    return value if where.endswith("[]") and isinstance(value, list) else [value]


def check_part(part: Any, keys: Mapping[str, type], where: str, path: Path) -> None:
    """Raise ArtifactError unless `part` is an object with `keys` of these kinds (float: any number)."""
    if not isinstance(part, Mapping):
        raise ArtifactError(f"{path}: {where} is a {type(part).__name__}, not an object: evaluate again")
    for key, kind in keys.items():
        value = part.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number if kind is float else isinstance(value, kind)):
            raise ArtifactError(f"{path}: {where}.{key} = {value!r:.60} should be a {kind.__name__}: evaluate again")
