"""From results to the page: each section is drawn, or None where it was not measured (the page then says so)."""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ptq4dm.report import charts, effect_charts, tables, words
from ptq4dm.report.law import law_density
from ptq4dm.report.sheets import make_gallery, ramp_css
from ptq4dm.report.verdict import FULL_CALIBRATION, eager_name, eager_ratio, hardest_ratio, verdict

NARROW, HALF, FULL = 330, 516, 1072
"""Widths that charts are drawn at, in CSS pixels: a phone, half the page, the page. CSS shows the one that fits."""
MOST_CHARTS: Final = 6
WORST_LAYERS: Final = 10


@dataclass(frozen=True)
class Tile:
    """One figure in large type. value, what it is, and a note under it."""

    value: str
    what: str
    note: str


def render(results: Mapping[str, Any], folder: Path) -> str:
    """The HTML of the page. folder: where the picture sheets are. Raises ArtifactError for damaged sheets."""
    loader = environment()
    style, script = (Markup(loader.get_template(name).render()) for name in ("page.css", "blink.js"))
    return loader.get_template("page.html").render(context(results, folder) | {"style": style, "script": script})


@functools.cache
def environment() -> Environment:
    """Where the templates are, and how: everything escaped, a name that nobody gave is an error."""
    made = Environment(
        loader=PackageLoader("ptq4dm", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["breakable"] = breakable
    return made


def breakable(name: str) -> Markup:
    """A long name that may be broken after its dots and underscores."""
    return Markup(re.sub(r"([._/])(?=\w)", r"\1<wbr>", str(escape(name))))


def context(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that the template names."""
    fidelity, speed = results.get("fidelity") or {}, results.get("speed") or {}
    sampling = speed.get("sampling") or {}
    psnr = (fidelity.get("pictures") or {}).get("psnr") or []
    pictures = results.get("pictures")
    executed = tables.executed_layers(results.get("executed"))
    return {
        "name": words.short_name(results["model"]["name"]),
        "model_line": model_line(results),
        "verdict": verdict(results),
        "tiles": headline(results),
        "gallery": make_gallery(folder, pictures, psnr) if pictures else None,
        "pictures": pictures or {},
        "ramp": Markup(ramp_css()),
        "fidelity": fidelity,
        "measures": tables.fidelity_measures(fidelity),
        "speed": speed,
        "size": results.get("size"),
        "memory_rows": tables.memory_rows(results.get("memory")),
        "speed_rows": tables.speed_rows(speed),
        "ratio_rows": tables.ratio_rows(speed),
        "sampling": sampling,
        "sampling_rows": tables.speed_rows(sampling),
        "sampling_ratio_rows": [row[:3] for row in tables.ratio_rows(sampling)],  # the limit is one of a call
        "distribution": results.get("distribution"),
        "distribution_rows": tables.distribution_rows(results.get("distribution") or {}),
        "calibration": calibration(results.get("calibration") or {}),
        "recipe": words.flat(results.get("recipe") or {}),
        "recipe_name": (results.get("recipe") or {}).get("name"),
        "plan_words": tables.plan_words(results["plan"]) if results.get("plan") else None,
        "float_rows": tables.float_rows(results.get("plan") or []),
        "by_method": (results.get("float_by_method") or {}).items(),
        "layers": sorted(results.get("layers") or [], key=lambda layer: -layer["relative_l2"]),
        "worst_layers": WORST_LAYERS,
        "executed": executed,
        "executed_rows": tables.executed_rows(executed),
        "choice_rows": tables.choice_rows(executed),
        "untimed_words": tables.untimed_words(executed),
        "not_int8": [layer["layer"] for layer in executed if not layer["int8"]],
        "engine": fidelity.get("backend") or (results.get("executed") or {}).get("engine"),
        "environment": words.flat(results.get("environment") or {}),
        "commands": results.get("commands") or [],
        "notes": results.get("notes") or [],
        "figures": figures(results),
        "words": words,
    }


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The charts, each as markup at two widths; a chart without data is None."""
    speed, call = results.get("speed") or {}, (results.get("fidelity") or {}).get("call") or {}
    limit = (speed.get("predicted_limit") or {}).get("limit")
    layers, rows, ratios = results.get("layers") or [], speed.get("rows") or [], speed.get("ratios") or []
    found = results.get("calibration") or {}
    drawn, total = found.get("drawn_timesteps") or [], found.get("num_train_timesteps")
    visited, density = found.get("visited_timesteps") or [], law_density(found)
    shown = [row for row in results.get("activation_ranges") or [] if len(row["t"]) > 1][:MOST_CHARTS]
    return {
        "ranges": [(row, charts.range_chart(row, NARROW)) for row in shown],
        "timesteps": two(lambda w: charts.timestep_chart(drawn, visited, total, density, w), FULL)
        if drawn and total
        else None,
        "weights": two(lambda w: effect_charts.weights_chart([found["step_weights"]], w), HALF)
        if found.get("step_weights")
        else None,
        "engines": two(lambda w: charts.engines_chart(rows, w), HALF) if rows else None,
        "ratios": two(lambda w: charts.ratios_chart(ratios, limit, w), HALF) if ratios else None,
        "layers": two(lambda w: charts.layers_chart(layers, w), FULL) if layers else None,
        "call_l2": call_curve(results, call, "relative_l2", "%", 100.0),
        "call_psnr": call_curve(results, call, "psnr", "dB", 1.0),
    }


def call_curve(
    results: Mapping[str, Any], call: Mapping[str, Any], key: str, unit: str, factor: float
) -> Markup | None:
    """The error of a call over t, or None if it has no curve."""
    curve = call.get("curve") or {}
    values = [None if value is None else factor * value for value in curve.get(key) or []]
    if len(values) < 2 or all(value is None for value in values):
        return None
    floor = (results["fidelity"].get("floors") or {}).get(f"{key}_mean")
    title = "Relative L2 of a call against t" if key == "relative_l2" else "PSNR of a call against t"
    bound = factor * floor if floor is not None else None
    return two(lambda w: charts.curve_chart(f"call-{key}", title, curve["t"], values, unit, bound, w), HALF)


def two(draw: Callable[[int], Markup], wide: int) -> Markup:
    """A chart for a phone and one for a wide window; CSS shows one of them."""
    return Markup('<div class="narrow">{}</div><div class="wide">{}</div>').format(draw(NARROW), draw(wide))


def headline(results: Mapping[str, Any]) -> list[Tile]:
    """The figures in large type, those that were measured."""
    speed, size = results.get("speed") or {}, results.get("size")
    limit = (speed.get("predicted_limit") or {}).get("limit")
    eager, fastest = eager_ratio(speed), hardest_ratio(speed)
    tiles = []
    for ratio, what in ((eager, eager_name(eager)), (fastest, "the fastest FP32 engine")):
        if ratio and not (ratio is eager and what != eager_name(eager)):
            interval = tables.ratio_interval(ratio)
            tiles.append(Tile(words.times(ratio["value"]), f"the speed of {what}", interval))
    if limit and tiles:
        tiles[-1] = Tile(tiles[-1].value, tiles[-1].what, f"{tiles[-1].note}; limit {words.times(limit)}".lstrip("; "))
    if size:
        note = f"{words.megabytes(size['int8_bytes'])} instead of {words.megabytes(size['float_bytes'])}"
        tiles.append(Tile(words.times(size["ratio"]), "smaller", note))
    pictures = (results.get("fidelity") or {}).get("pictures")
    if pictures and "psnr_mean" in pictures:
        note = f"mean PSNR of {words.plural(round(pictures['n']), 'picture')}, same seeds"
        tiles.append(Tile(words.decibels(pictures["psnr_mean"]), "picture against picture", note))
    return tiles


def model_line(results: Mapping[str, Any]) -> str:
    """What model this is, in one line."""
    model = results["model"]
    parts = [model.get("class")]
    if model.get("parameters"):
        parts.append(f"{words.large(model['parameters'])} parameters")
    if model.get("picture_shape"):
        parts.append("×".join(str(side) for side in model["picture_shape"][::-1]))
    if model.get("fingerprint"):
        parts.append(f"weights {model['fingerprint']}")
    return " · ".join(part for part in parts if part)


def calibration(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The calibration in words, or None if nothing is known of it."""
    if not found.get("samples"):
        return None
    options = ", ".join(f"{key} {words.text_of(value)}" for key, value in (found.get("law_options") or {}).items())
    cost = []
    if found.get("calls_made"):
        share = found.get("calls_saved", 0) / max(found["calls_made"] + found.get("calls_saved", 0), 1)
        cost.append(f"{words.count(found['calls_made'])} network calls ({words.percent(share, 2)} saved)")
    if found.get("sensitivity_calls"):
        cost.append(f"{words.count(found['sensitivity_calls'])} to find sensitive layers")
    if measured := found.get("step_weights"):
        made = measured["calls_made"] + measured["draft_calls"]
        cost.append(f"{words.count(made)} to weigh the time-steps")
    if found.get("seconds"):
        cost.append(words.duration(found["seconds"]))
    density = law_density(found)
    clipped = ""
    if density and density.below + density.above > 0.005:
        ends = f"t = 0 and {words.percent(density.above, 2)} on t = {found['num_train_timesteps'] - 1}"
        clipped = f"Clipping puts {words.percent(density.below, 2)} of the law on {ends}."
    return {
        "samples": words.count(found["samples"]),
        "small": found["samples"] < FULL_CALIBRATION,
        "full": words.count(FULL_CALIBRATION),
        "law": re.sub(r"^.*\.", "", str(found.get("law", "unknown"))),
        "options": options,
        "source": found.get("source", "unknown"),
        "sampler": found.get("sampler"),
        "steps": found.get("steps"),
        "cost": ", ".join(cost),
        "clipped": clipped,
        "has_law": density is not None,
    }
