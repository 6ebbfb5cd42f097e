"""What a question's rows say, in one sentence computed from them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ptq4dm.studies.answers import (
    bits_sentence,
    operations_sentence,
    samplers_sentence,
    samples_sentence,
    time_scales_sentence,
)
from ptq4dm.studies.auto_words import auto_sentence
from ptq4dm.studies.readings import estimate_of, named, outcome_of, pictures_of
from ptq4dm.studies.redundancy_sentences import redundancy_sentence
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


ANSWERS: Final = {
    "operations": operations_sentence,
    "bits": bits_sentence,
    "samples": samples_sentence,
    "samplers": samplers_sentence,
    "time_scales": time_scales_sentence,
}
"""Questions whose answer has a shape of its own."""


def sentence(question: str, rows: Sequence[Row]) -> str:
    """The answer to one question, from its rows."""
    if question == "drift":
        return drift_sentence(rows[0]["facts"])
    if question == "auto":
        return auto_sentence(rows)
    if question == "redundancy":
        return redundancy_sentence(rows)
    if question == "distribution":
        return distribution_sentence([row for row in rows if "facts" in row])
    known = [row for row in rows if "per_picture" in row]
    if question in ANSWERS and known:
        return ANSWERS[question](known)
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
