"""From a study's results to one self-contained page: a question at a time, a plot and a sentence for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup
from PIL import Image

from ptq4dm.errors import ArtifactError
from ptq4dm.files import new_file, read_json
from ptq4dm.report import drift_charts, effect_charts, redundancy_charts, study_charts, study_notes, words
from ptq4dm.report.page import FULL, NARROW, environment
from ptq4dm.report.sheets import data_uri
from ptq4dm.studies.readings import extreme_of, outcome_of
from ptq4dm.studies.rows import interval_of_mean
from ptq4dm.studies.sentences import QUESTIONS, sentence
from ptq4dm.studies.standing import standing_sentence
from ptq4dm.studies.store import FORMAT_VERSION

RESULTS: Final = "study.json"
PAGE: Final = "study.html"
ENLARGED: Final = 2
CURVES: Final = 4
"""Curves in one chart, at most."""
UNITS: Final = {"relative_l2": "%", "picture_psnr": "dB"}
RELATIONS: Final = {
    "better": "better than",
    "worse": "worse than",
    "no difference": "not different from",
    "mixed": "better in calls or pictures and worse in the other than",
    "unknown": "not comparable with",
}
TABLE: Final = (
    "variant",
    "error of a call",
    "difference",
    "PSNR of a call",
    "difference",
    "PSNR of pictures",
    "difference",
    "perceptual distance",
    "difference",
    "reading",
    "time",
    "memory",
)
"""What stands in a row of a table."""
TONES: Final = {"supported": "yes", "contradicted": "no"}


def build_study_page(folder: Path, out: Path | None = None) -> Path:
    """Draw the page of a study's folder and return where it was written. Raises ArtifactError."""
    folder = Path(folder)
    results = load_study(folder)
    loader = environment()
    style = Markup(loader.get_template("page.css").render() + loader.get_template("study.css").render())
    html = loader.get_template("study.html").render(study_context(results, folder) | {"style": style})
    page = Path(out) if out is not None else folder / PAGE
    with new_file(page) as building:
        building.write_text(html, encoding="utf-8")
    return page


def load_study(folder: Path) -> dict[str, Any]:
    """Read a study's results. Raises ArtifactError: none, damaged, or of another version."""
    path = folder / RESULTS
    if not path.is_file():
        raise ArtifactError(f"no {RESULTS} in {folder}: name a folder that `ptq4dm study` wrote")
    results = read_json(path)
    if not isinstance(results, dict) or results.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(f"{path} is no study of version {FORMAT_VERSION}: run `ptq4dm study` again")
    kinds = {"rows": list, "verdicts": list, "standing": dict, "model": dict, "settings": dict, "recipe": dict}
    for key, kind in kinds.items():
        if not isinstance(results.get(key), kind):
            raise ArtifactError(f"{path}: {key} is missing or damaged: run `ptq4dm study` again")
    return results


def study_context(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that the template names."""
    rows = results["rows"]
    default = next((row for row in rows if row["question"] == "default"), None)
    questions = [
        question_context(name, title, [row for row in rows if row["question"] == name], default, results, folder)
        for name, title in QUESTIONS.items()
        if any(row["question"] == name for row in rows)
    ]
    return {
        "name": words.short_name(results["model"]["name"]),
        "settings": results["settings"],
        "summary": summary_of(results["verdicts"]),
        "standing": standing_sentence(results["standing"]),
        "verdicts": [verdict_row(item) for item in results["verdicts"]],
        "questions": questions,
        "default": default,
        "left_in_float": results.get("left_in_float") or {},
        "recipe": words.flat(results["recipe"]),
        "environment": words.flat(results.get("environment") or {}),
        "seconds": results.get("seconds") or {},
        "perceptual": results.get("perceptual") or {},
        "mixed": study_notes.mixed_surroundings(rows),
        "words": words,
    }


def question_context(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    default: Mapping[str, Any] | None,
    results: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """One question: its sentence, charts, table and pictures."""
    measured = [row for row in rows if "per_picture" in row]
    found: dict[str, Any] = {"key": name, "title": title, "sentence": sentence(name, [dict(row) for row in rows])}
    found |= {
        "head": TABLE,
        "table": [table_row(row) for row in measured_rows(rows)],
        "charts": [],
        "curves": None,
        "weights": None,
        "strips": [],
    }
    found["notes"] = study_notes.notes_of(rows)
    if name == "distribution":
        known = [row["facts"]["rows"][0] | {"variant": row["variant"]} for row in rows if "facts" in row]
        charts = [study_charts.distances_chart(known, width) for width in (FULL, NARROW)] if known else []
        measure = known[0]["measure"] if known else ""
        distances = [item for row in rows for item in distance_rows(row)]
        return found | {"table": [], "distances": distances, "charts": charts, "measure": measure}
    if name == "drift":
        return found | drift_charts.of_question(rows[0]["facts"])
    if name == "auto":
        facts = next((row["facts"] for row in rows if "facts" in row), None)
        found["weights"] = facts and [effect_charts.study_weights(facts, width) for width in (FULL, NARROW)]
        rows = measured_rows(rows)
    if name == "redundancy":
        return found | {"parts": redundancy_charts.parts_of(rows)}
    level = default["call"]["relative_l2"]["mean"] if default and name != "samplers" else None
    found["charts"] = [study_charts.rows_chart(name, rows, level, width) for width in (FULL, NARROW)]
    if default is None:
        return found
    shown = worst_sampler(measured)
    if name != "samplers":
        shown = extremes([row for row in measured if row.get("sampler") == default["sampler"]], default)
    curved = [row for row in shown if "curve" in row][:CURVES]
    if len(curved) > 1:
        found["curves"] = [study_charts.curves_chart(name, curved, width) for width in (FULL, NARROW)]
        found["psnr"] = [study_charts.psnr_chart(name, curved, width) for width in (FULL, NARROW)]
        found["legend"] = [row["variant"] for row in curved]
    found["strips"] = [strip("float", results.get("float_sheet"), folder)] if name != "samplers" else []
    found["strips"] += [strip(strip_words(row), row.get("sheet"), folder) for row in shown]
    found["strips"] = [item for item in found["strips"] if item]
    return found


def measured_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows with calls or pictures, and those that are not applicable."""
    return [row for row in rows if "facts" not in row]


def distance_rows(row: Mapping[str, Any]) -> list[list[str]]:
    """The distances of one network as rows: network, measure, float, INT8, difference."""
    if "facts" not in row:
        return [[row["variant"], row.get("not_applicable", ""), "", "", ""]]
    return [
        [
            row["variant"],
            item["measure"],
            f"{item['float']:.4g}",
            f"{item['int8']:.4g}",
            words.signed(item["difference"])
            + (f" [{words.signed(item['low'])}, {words.signed(item['high'])}]" if item["low"] is not None else ""),
        ]
        for item in row["facts"]["rows"]
    ]


def extremes(rows: Sequence[Mapping[str, Any]], default: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The default's row, then the best and the worst of the others, each once."""
    others = [dict(row) for row in rows if row["key"] != default["key"]]
    found = [default]
    for worst in (False, True):
        row = extreme_of(others, worst)
        if row and all(row["key"] != each["key"] for each in found):
            found.append(row)
    return found


def worst_sampler(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the sampler under which one has the largest error of a call, of those with most pictures."""
    most = max((row["n"] for row in rows), default=0)
    worst = extreme_of([dict(row) for row in rows if row["n"] == most], True)
    return [row for row in rows if worst and (row["sampler"], row["steps"]) == (worst["sampler"], worst["steps"])]


def strip_words(row: Mapping[str, Any]) -> str:
    """What stands under a strip of pictures."""
    return f"{row['variant']}, {words.decibels(row['picture']['psnr']['mean'])} from float"


def strip(label: str, sheet: str | None, folder: Path) -> dict[str, str] | None:
    """A row's first pictures as a data URI; None if none were kept. Raises ArtifactError for a damaged sheet."""
    if not sheet or not (folder / sheet).is_file():
        return None
    try:
        with Image.open(folder / sheet) as image:
            size = (image.width * ENLARGED, image.height * ENLARGED)
            return {"label": label, "uri": data_uri(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))}
    except OSError as error:
        raise ArtifactError(f"{folder / sheet} is damaged ({error}): run `ptq4dm study` again") from error


def table_row(row: Mapping[str, Any]) -> list[str]:
    """The cells of `TABLE`; the time with that of shared parts after a plus."""
    if "not_applicable" in row:
        return [row["variant"], *[""] * 8, f"not applicable: {row['not_applicable']}", "", ""]
    call, psnr = row["call"].get("relative_l2"), row["call"].get("psnr")
    picture, seen = row["picture"]["psnr"], row["picture"].get("perceptual")
    found = (call or picture)["difference"]
    return [
        row["variant"],
        words.percent(call["mean"]) if call else "none",
        span_words(row, "relative_l2", call, 100, "%"),
        words.decibels(psnr["mean"]) if psnr else "",
        span_words(row, "call_psnr", psnr, 1, "dB"),
        words.decibels(picture["mean"]),
        span_words(row, "picture_psnr", picture, 1, "dB"),
        f"{seen['mean']:.3g}" if seen else "",
        span_words(row, "perceptual", seen, 1, ""),
        (outcome_of(dict(row)) if found else "") + f" (n = {row['n']})",
        f"{row['seconds']:.0f} s" + (f" + {row['shared_seconds']:.0f} s" if row["shared_seconds"] >= 0.5 else ""),
        words.megabytes(row["peak_bytes"]) if row["peak_bytes"] else "",
    ]


def span_words(row: Mapping[str, Any], name: str, measure: Mapping[str, Any] | None, factor: float, unit: str) -> str:
    """The difference from the baseline with its interval; of a baseline itself the interval of its mean."""
    if measure is None:
        return ""
    if measure["difference"]:
        return difference_words(measure["difference"], factor, unit).strip()
    values = [value for value in row["per_picture"].get(name, ()) if value is not None]
    span = None if row["baseline"] else interval_of_mean(values)
    return f"mean in [{factor * span[0]:.3g}, {factor * span[1]:.3g}] {unit}".strip() if span else ""


def difference_words(found: Mapping[str, Any], factor: float, unit: str) -> str:
    """A paired difference with its interval."""
    value, low, high = (words.signed(factor * found[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}] {unit}"


def verdict_row(item: Mapping[str, Any]) -> dict[str, Any]:
    """A claim as the page shows it."""
    here = [comparison_words(comparison) for comparison in item["comparisons"]]
    return {**item, "tone": TONES.get(item["verdict"], ""), "here": here}


def comparison_words(item: Mapping[str, Any]) -> str:
    """What one comparison found."""
    if item.get("words"):
        return item["words"]
    found, unit = item["estimate"], UNITS.get(item["measure"], "")
    span = difference_words(found, 100 if unit == "%" else 1, unit).strip() if found else "no pairs"
    pictures = f"; {difference_words(item['pictures'], 1, 'dB')}" if item["pictures"] else ""
    return f"{item['first']} {RELATIONS[item['outcome']]} {item['second']}: {span}{pictures}"


def summary_of(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many claims fared how, in one sentence."""
    counts = {
        word: sum(item["verdict"] == word for item in verdicts)
        for word in ("supported", "contradicted", "not decided", "not measured")
    }
    parts = [f"{number} {word}" for word, number in counts.items() if number]
    return f"Of the paper's {len(verdicts)} claims, on this model: {', '.join(parts)}."
