"""Draw the report again from saved results."""

import argparse
from pathlib import Path

from ptq4dm.cli.options import add_json, show
from ptq4dm.report.report import build_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    parser.add_argument("results", type=Path, help="a folder that `ptq4dm evaluate` or `ptq4dm demo` wrote")
    parser.add_argument("--out", type=Path, help="the page to write (default: report.html in that folder)")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Draw it."""
    page = build_report(args.results, args.out)
    show(args, {"report": str(page)}, f"open {page}")
