"""List the built-in models."""

import argparse

from ptq4dm.cli.options import add_json, show, table
from ptq4dm.zoo.zoo import MODELS, int8_folder, model_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of this verb."""
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print names, folders and cards."""
    rows = [
        {
            "name": name,
            "folder": str(model_folder(name)),
            "int8": str(int8_folder(name)),
            "card": str(model_folder(name).parent / "README.md"),
        }
        for name in MODELS
    ]
    text = table([(row["name"], row["folder"], row["card"]) for row in rows], ("name", "folder", "card"))
    show(args, {"models": rows}, text)
