"""What a reader of a study must know beside its figures, computed from the rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def notes_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What some rows say of themselves, and how far the laws of their calibration are from those that a sweep gives
    exactly."""
    notes = sorted({f"{row['variant']}: {row['note']}" for row in rows if row["note"]})
    notes += [bands_note(row) for row in rows if row.get("time_bands")]
    distances = {row["variant"]: row["law_distance"] for row in rows if (row.get("law_distance") or 0) > 1e-9}
    if distances:
        farthest = max(distances, key=lambda name: distances[name])
        notes.append(
            f"The bands of the sweep hold several time-steps each, so the ranges of {len(distances)} variants are not "
            "quite those of collecting samples under their law: the mean of any error differs by at most D times its "
            f"largest value, with D up to {distances[farthest]:.3g} ({farthest})"
        )
    return notes


def bands_note(row: Mapping[str, Any]) -> str:
    """Where the bands of a row lie and what they do to the rounding of inputs."""
    cuts, loss = row["time_bands"]["cuts"], row["time_bands"]["loss"]
    where = ", ".join(f"{cut:.0f}" for cut in cuts) or "nowhere"
    return (
        f"{row['variant']}: {len(cuts) + 1} bands, cut at t = {where}; inputs lose {loss[len(cuts)]:.0%} of what "
        "they lose with one band, on the mean over layers"
    )


def mixed_surroundings(rows: Sequence[Mapping[str, Any]]) -> str:
    """That the rows were measured with different versions or on different processors; empty where they were not."""
    found = Counter(surroundings(row["environment"]) for row in rows if row.get("environment"))
    if len(found) < 2:
        return ""
    parts = "; ".join(f"{number} with {words}" for words, number in found.most_common())
    return f"Not all rows were measured alike, so some of their differences may come from that: {parts}."


def surroundings(environment: Mapping[str, Any]) -> str:
    """An environment in one line."""
    versions = ", ".join(f"{name} {environment[name]}" for name in ("ptq4dm", "torch") if environment.get(name))
    processor = f"{environment.get('processor')} ({environment.get('int8_instructions')})"
    return f"{versions} on {processor}, threads: {environment.get('threads')}"
