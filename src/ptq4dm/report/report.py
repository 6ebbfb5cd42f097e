"""Results folder -> one self-contained HTML page, drawn from saved results only."""

from pathlib import Path
from typing import Final

from ptq4dm.files import new_file
from ptq4dm.report.page import render
from ptq4dm.report.results import load_results

PAGE: Final = "report.html"
OF_THE_DEMO: Final = "results"
"""The results folder that `ptq4dm demo` writes into its own; the page lies beside it."""


def build_report(results: Path, out: Path | None = None) -> Path:
    """Draw the page of a results folder and return where it was written.

    results: a folder with `results.json` and the picture sheets that it names (or the path of that JSON file).
    out: the page to write; default `report.html` in that folder. Raises ArtifactError: no results there, damaged
    ones, ones of a newer format, or a place that cannot be written.
    """
    results = Path(results)
    folder = results.parent if results.is_file() else results
    html = render(load_results(folder), folder)
    page = Path(out) if out is not None else folder / PAGE
    with new_file(page) as building:
        building.write_text(html, encoding="utf-8")
    return page
