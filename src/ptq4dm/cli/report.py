"""Draw the report again from saved results."""

import argparse
from pathlib import Path

from ptq4dm.cli.options import add_json, show
from ptq4dm.report.report import OF_THE_DEMO, PAGE, build_report
from ptq4dm.report.results import RESULTS
from ptq4dm.report.study_page import RESULTS as STUDY
from ptq4dm.report.study_page import build_study_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("results", type=Path, help="a folder that `ptq4dm evaluate`, `demo` or `study` wrote")
    parser.add_argument(
        "--out", type=Path, help="the page to write (default: report.html or study.html in that folder)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Draw it."""
    if (args.results / STUDY).is_file():
        page = build_study_page(args.results, args.out)
    elif (args.results / OF_THE_DEMO / RESULTS).is_file():
        page = build_report(args.results / OF_THE_DEMO, args.out or args.results / PAGE)
    else:
        page = build_report(args.results, args.out)
    show(args, {"report": str(page)}, f"open {page}")
