"""The answers to questions that have a shape of their own, each computed from the rows of its question."""

import itertools
import math
from collections.abc import Mapping, Sequence

from ptq4dm.studies.readings import estimate_of, outcome_of, pictures_of, sampler_of, value_words
from ptq4dm.studies.rows import interval_of_mean
from ptq4dm.studies.store import Row
from ptq4dm.studies.variants import DEFAULT_CALIBRATION, FEW_BANDS, NAIVE, ONE_BAND, OTHER, PAPER, PRESET


def operations_sentence(rows: Sequence[Row]) -> str:
    """The kinds of operations by what rounding each alone does, then what the paper rounds at once."""
    together = [row for row in rows if row["variant"] in (PAPER, PRESET)]
    beside = [row for row in rows if row["variant"].startswith((f"{PRESET},", "default recipe"))]
    alone = [row for row in rows if row not in together and row not in beside]
    called = sorted((row for row in alone if has_calls(row)), key=lambda row: -row["call"]["relative_l2"]["mean"])
    others = [row for row in alone if not has_calls(row)]
    parts = [f"Rounded alone: {listed(called)}."] if called else []
    parts += [f"At once: {listed(together)}."] if together else []
    parts += [f"Between calls, of which none changes: {listed(others)}."] if others else []
    return f"{' '.join(parts)} Means over {pictures_of(rows)} pictures."


def has_calls(row: Row) -> bool:
    """Whether a row has an error of calls."""
    return "relative_l2" in row["per_picture"]


def listed(rows: Sequence[Row]) -> str:
    """Rows with their values, joined."""
    words = [f"{row['variant']} {value_words(row)}" for row in rows]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def bits_sentence(rows: Sequence[Row]) -> str:
    """For weights and activations together and apart: the errors, and how few bits do not differ from 8."""
    groups = {
        "Weights and activations": lambda weights, inputs: weights == inputs,
        "Weights alone": lambda weights, inputs: inputs == 8,
        "Activations alone": lambda weights, inputs: weights == 8,
    }
    widths = {row["variant"]: tuple(map(int, row["variant"][1:].split("A"))) for row in rows}
    fewer = [row for row in rows if widths[row["variant"]] != (8, 8) and estimate_of(row)]
    parts = []
    for name, belongs in groups.items():
        own = [row for row in fewer if belongs(*widths[row["variant"]])]
        own.sort(key=lambda row: -sum(widths[row["variant"]]))
        if own:
            values = ", ".join(f"{row['variant']} {value_words(row)}" for row in own)
            parts.append(f"{name}: {values}; {fewest(own)}.")
    return f"{' '.join(parts)} Against 8 bits, beyond 95 % intervals over {pictures_of(rows)} pictures."


def fewest(rows: Sequence[Row]) -> str:
    """The last of some rows, from the most bits down, before the first that is worse than its baseline."""
    kept = unbroken(rows)
    return f"down to {kept[-1]['variant']} none is worse" if kept else f"already {rows[0]['variant']} is worse"


def unbroken(rows: Sequence[Row]) -> list[Row]:
    """The rows before the first that is worse than its baseline."""
    return list(itertools.takewhile(lambda row: outcome_of(row) != "worse", rows))


def samples_sentence(rows: Sequence[Row]) -> str:
    """The least number of samples from which on no row is worse than the most, and what the draw alone does."""
    numbers = {int(row["variant"]): row for row in rows if row["variant"].isdigit()}
    most = max(numbers, default=0)
    fewer = [numbers[n] for n in sorted(numbers, reverse=True) if n != most and estimate_of(numbers[n])]
    parts = []
    if fewer:
        kept = unbroken(fewer)
        least = kept[-1]["variant"] if kept else str(most)
        values = ", ".join(f"{row['variant']} {value_words(row)}" for row in reversed(fewer))
        parts.append(f"From {least} samples on none is worse than {most} ({value_words(numbers[most])}): {values}.")
    for n, row in numbers.items():
        again = [other for other in rows if other["variant"].startswith(f"{n}, draw")]
        if again:
            values = ", ".join(value_words(each) for each in (row, *again))
            parts.append(f"Draws of {n} samples give {values}.")
    return f"{' '.join(parts)} Beyond 95 % intervals over {pictures_of(rows)} pictures."


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
    against = f"Against one calibration for all, 95 % intervals over {pictures_of(rows)} pictures."
    return " ".join([*parts, against, gain_words(rows)]).strip()


def gain_words(rows: Sequence[Row]) -> str:
    """Whether the gain over one time-step alone, as a ratio of errors of a call, is the same under all samplers."""
    spans: dict[str, tuple[float, float]] = {}
    ratios: dict[str, float] = {}
    known = {row["variant"]: row for row in rows if has_calls(row)}
    for name, row in known.items():
        first = known.get(f"{sampler_of(row)}: {DEFAULT_CALIBRATION}")
        if not name.endswith(NAIVE) or first is None:
            continue
        pairs = zip(row["per_picture"]["relative_l2"], first["per_picture"]["relative_l2"], strict=True)
        logs = [math.log(a / b) for a, b in pairs if a > 0 and b > 0]
        span = interval_of_mean(logs)
        if span:
            ratios[sampler_of(row)] = math.exp(sum(logs) / len(logs))
            spans[sampler_of(row)] = span
    if len(spans) < 2:
        return ""
    least, most = min(ratios, key=lambda name: ratios[name]), max(ratios, key=lambda name: ratios[name])
    alike = max(low for low, _ in spans.values()) <= min(high for _, high in spans.values())
    answer = "do not differ beyond their intervals" if alike else "differ beyond their intervals"
    return (
        f"Calibrated at t = 0 alone the error of a call is {ratios[least]:.2f} ({least}) to {ratios[most]:.2f} "
        f"({most}) times that of one calibration for all; the ratios of the {len(ratios)} samplers {answer}."
    )


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
    few = next((row for row in rows if FEW_BANDS in row["variant"] and row.get("time_bands")), None)
    also = f" ({len(few['time_bands']['cuts']) + 1} bands{few['variant'][2:]}: {value_words(few)})" if few else ""
    return f"{best['variant']}: {other:.3g} % a call against {one:.3g} % with one band, {outcome}{also}."
