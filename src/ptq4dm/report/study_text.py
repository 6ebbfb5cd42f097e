"""A study in plain text, for the terminal."""

from collections.abc import Mapping
from typing import Any

from ptq4dm.report.words import decibels, duration, percent
from ptq4dm.studies.readings import outcome_of
from ptq4dm.studies.sentences import QUESTIONS, sentence
from ptq4dm.studies.standing import standing_sentence


def study_text(results: Mapping[str, Any]) -> str:
    """Rows by question, the sentence of each, and the verdicts."""
    lines = []
    for question, title in {"default": "The default recipe", **QUESTIONS}.items():
        rows = [row for row in results["rows"] if row["question"] == question]
        if not rows:
            continue
        lines += ["", title]
        lines += [f"  {row_line(row)}" for row in rows if "facts" not in row]
        if question != "default":
            lines.append(f"  {sentence(question, rows)}")
    lines += ["", "The paper's claims on this model"]
    lines += [f"  {item['verdict']:12s}  {item['claim']}" for item in results["verdicts"]]
    lines += ["", standing_sentence(results["standing"])]
    lines.append(f"\n{duration(results['seconds']['all rows'])} in all rows")
    return "\n".join(lines[1:])


def row_line(row: Mapping[str, Any]) -> str:
    """One row."""
    if "not_applicable" in row:
        return f"{row['variant']:46s} not applicable: {row['not_applicable']}"
    call = row["call"].get("relative_l2")
    error = percent(call["mean"]) if call else "-"
    outcome = outcome_of(row) if row["baseline"] else ""
    return f"{row['variant']:46s} {error:>9s} a call  {decibels(row['picture']['psnr']['mean']):>10s}  {outcome}"
