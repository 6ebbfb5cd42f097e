"""What a question's rows say, in one sentence computed from them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ptq4dm.studies.auto_words import auto_sentence
from ptq4dm.studies.redundancy_sentences import redundancy_sentence
from ptq4dm.studies.rows import verdict_of
from ptq4dm.studies.store import Row

QUESTIONS: Final = {
    "drift": "How much do activations drift with the time-step?",
    "operations": "Which operations can be quantized?",
    "sources": "Where should calibration inputs come from?",
    "timesteps": "At which time-steps should one calibrate?",
    "auto": "Which time-steps matter to the picture, and does weighting by that help?",
    "metrics": "Which distance should choose the ranges?",
    "bits": "How few bits are enough?",
    "samples": "How few calibration samples are enough?",
    "samplers": "Does one calibration serve every sampler?",
    "redundancy": "Why do 8 bits lose so little?",
    "time_scales": "What do scales that depend on the time-step buy?",
    "distribution": "How far are the pictures from the data?",
}
"""Each question in words."""
OTHER, NAIVE = "calibrated on this sampler", "calibrated at t = 0 alone"
"""How the variants of the question `samplers` end that are compared with the default calibration."""
ONE_BAND: Final = "one band"
"""How the variants end that others of the question `time_scales` are compared with."""


def sentence(question: str, rows: Sequence[Row]) -> str:
    """The answer to one question, from its rows."""
    if question == "drift":
        return drift_sentence(rows[0]["facts"])
    if question == "auto":
        return auto_sentence(rows)
    if question == "redundancy":
        return redundancy_sentence(rows)
    if question == "time_scales":
        return time_scales_sentence([row for row in rows if "per_picture" in row])
    if question == "distribution":
        return distribution_sentence([row for row in rows if "facts" in row])
    known = [row for row in rows if "per_picture" in row]
    if question == "samplers":
        return samplers_sentence(known)
    judged = [row for row in known if estimate_of(row)]
    if not judged:
        return "No row has a paired difference from the default recipe yet."
    groups: dict[str, list[Row]] = {"better": [], "worse": [], "no difference": []}
    for row in judged:
        groups[outcome_of(row)].append(row)
    parts = [
        f"Of {len(judged)} variants compared with the default recipe or the row that they name, "
        f"{len(groups['no difference'])} do not differ from it"
    ]
    parts.append(f"{len(groups['worse'])} are worse{named(groups['worse'], worst=True)}")
    parts.append(f"{len(groups['better'])} are better{named(groups['better'], worst=False)}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}, beyond the 95 % intervals over {pictures_of(judged)} pictures."


def samplers_sentence(rows: Sequence[Row]) -> str:
    """Whether a sampler's own calibration, or one time-step alone, differs from the one calibration for all."""
    parts = []
    for variant, words in ((OTHER, "Calibrated on the sampler that draws"), (NAIVE, "Calibrated at t = 0 alone")):
        own = [row for row in rows if row["variant"].endswith(variant) and estimate_of(row)]
        outcomes = {word: [row for row in own if outcome_of(row) == word] for word in ("better", "worse")}
        same = len(own) - sum(map(len, outcomes.values()))
        found = [f"{word} under {', '.join(map(sampler_of, some))}" for word, some in outcomes.items() if some]
        found += [f"no different under {same} of {len(own)} samplers"] if own else ["not measured"]
        parts.append(f"{words}: {', '.join(found)}.")
    return f"{' '.join(parts)} Against one calibration for all, 95 % intervals over {pictures_of(rows)} pictures."


def sampler_of(row: Row) -> str:
    """Such as `ddim-20`."""
    return row["variant"].split(":")[0]


def pictures_of(rows: Sequence[Row]) -> str:
    """Over how many pictures rows are: `16`, or `4 to 16`."""
    numbers = sorted({row["n"] for row in rows})
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def drift_sentence(facts: Mapping[str, Any]) -> str:
    """How much layers drift."""
    layers = facts["layers"]
    much = sum(row["drift"] >= 1 for row in layers)
    return (
        f"Half of the layers drift by {facts['median']:.2f} bits or more, and {much} of {len(layers)} by at least one "
        f"bit, so that a range that holds them at every time-step wastes half of its levels at some; "
        f"{layers[0]['layer']} drifts most, by {facts['most']:.2f} bits."
    )


def distribution_sentence(rows: Sequence[Row]) -> str:
    """Which networks are measurably nearer to the data, or farther from it, than the float model."""
    if not rows:
        return "No distances from the data were measured."
    found = [(row["variant"], item) for row in rows for item in row["facts"]["rows"][:1]]
    farther = [name for name, item in found if item["low"] is not None and item["low"] > 0]
    nearer = [name for name, item in found if item["high"] is not None and item["high"] < 0]
    unknown = sum(item["low"] is None for _, item in found)
    same = len(found) - len(farther) - len(nearer) - unknown
    parts = [f"{same} of {len(found)} networks do not differ from the float model"]
    parts += [f"of {unknown} no interval is known"] if unknown else []
    parts += [f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {word}" for names, word in
              ((farther, "farther from the data"), (nearer, "nearer to it")) if names]  # fmt: skip
    return f"By the {found[0][1]['measure']} over {found[0][1]['n']} pictures each, {'; '.join(parts)}."


def time_scales_sentence(rows: Sequence[Row]) -> str:
    """What the best number of bands does to the error of a call, for each number of bits, against one band."""
    by_key = {row["key"]: row for row in rows}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if not row["variant"].endswith(ONE_BAND) and row["baseline"] in by_key and "relative_l2" in row["per_picture"]:
            groups.setdefault(row["variant"].split(",")[0], []).append(row)
    if not groups:
        return "No row has a paired difference from one band yet."
    parts = [time_scales_part(own, by_key) for own in groups.values()]
    return f"{' '.join(parts)} Over {rows[0]['n']} pictures."


def time_scales_part(rows: Sequence[Row], by_key: Mapping[str, Row]) -> str:
    """What the best of some rows of the same bits does."""
    best = min(rows, key=lambda row: row["call"]["relative_l2"]["mean"])
    one, other = (100 * row["call"]["relative_l2"]["mean"] for row in (by_key[best["baseline"]], best))
    outcome = {"better": "beyond the 95 % interval", "worse": "worse beyond the 95 % interval"}.get(
        outcome_of(best), "no difference beyond the 95 % interval"
    )
    return f"{best['variant']}: {other:.3g} % a call against {one:.3g} % with one band, {outcome}."


def named(rows: Sequence[Row], worst: bool) -> str:
    """The extreme of some rows, in brackets."""
    extreme = extreme_of(rows, worst)
    if extreme is None:
        return ""
    return f" ({'the worst' if worst else 'the best'}: {extreme['variant']}, {value_words(extreme)})"


def extreme_of(rows: Sequence[Row], worst: bool) -> Row | None:
    """The row with the largest (smallest) error of a call, of those that have one; else by pictures."""
    by_call = [row for row in rows if "relative_l2" in row["per_picture"]]
    if by_call:
        pick = max if worst else min
        return pick(by_call, key=lambda row: row["call"]["relative_l2"]["mean"])
    by_picture = [row for row in rows if row["picture"]["psnr"]["mean"] is not None]
    pick = min if worst else max
    return pick(by_picture, key=lambda row: row["picture"]["psnr"]["mean"]) if by_picture else None


def value_words(row: Row) -> str:
    """A row's error of a call, or the PSNR of its pictures."""
    call = row["call"].get("relative_l2")
    if call:
        return f"{100 * call['mean']:.3g} % a call"
    return f"{row['picture']['psnr']['mean']:.1f} dB a picture"


def estimate_of(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The difference that decides about a row: of calls, or of pictures where no call differs."""
    level, key = ("call", "relative_l2") if "relative_l2" in row["per_picture"] else ("picture", "psnr")
    return row[level][key]["difference"]


def outcome_of(row: Mapping[str, Any]) -> str:
    """`better`, `worse` or `no difference` from the row's baseline."""
    return verdict_of(estimate_of(row), "relative_l2" not in row["per_picture"])
