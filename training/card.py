"""Draw what the card of `emoji-32` and the README show, from the training log and an evaluation's results.

    python training/card.py --log loss.jsonl --results results --card src/ptq4dm/zoo/emoji_32 --readme docs/pictures.png

Writes loss.jsonl, loss.svg and samples.png beside the card, and one sheet for the README: float above, INT8 below.
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import torch
from PIL import Image

from ptq4dm.evaluation.sheet import sheet
from ptq4dm.files import read_tensors

WIDTH, HEIGHT, MARGIN = 640, 240, 48
ENLARGED = 3
COLUMNS = 8


def loss_curve(rows: list[dict]) -> str:
    """The loss against pictures seen, as SVG, on a logarithmic axis."""
    steps = [row["pictures"] for row in rows]
    logs = [math.log10(row["loss"]) for row in rows]
    low, high = min(logs), max(logs)

    def place(pictures: float, value: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * pictures / steps[-1]
        y = MARGIN / 2 + (HEIGHT - 1.5 * MARGIN) * (high - value) / ((high - low) or 1)
        return f"{x:.1f},{y:.1f}"

    points = " ".join(place(pictures, value) for pictures, value in zip(steps, logs))
    ends = [(place(0, value), 10**value) for value in (low, high)]
    labels = "".join(
        f'<text x="4" y="{float(at.split(",")[1]) + 4}" font-size="12">{value:.3g}</text>' for at, value in ends
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" fill="#555">'
        f'<polyline points="{points}" fill="none" stroke="#2a7" stroke-width="2"/>{labels}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" font-size="12" text-anchor="middle">'
        f"weighted loss against pictures seen (0 to {steps[-1]:,})</text></svg>\n"
    )


def enlarged(pictures: torch.Tensor) -> Image.Image:
    """A sheet of pictures, three times as large."""
    small = Image.fromarray(sheet(pictures, COLUMNS))
    return small.resize((small.width * ENLARGED, small.height * ENLARGED), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--readme", type=Path, required=True)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.log.read_text().splitlines()]
    if args.log.resolve() != (args.card / "loss.jsonl").resolve():
        shutil.copy(args.log, args.card / "loss.jsonl")
    (args.card / "loss.svg").write_text(loss_curve(rows))
    drawn, _ = read_tensors(args.results / "pictures.safetensors")
    enlarged(drawn["float"]).save(args.card / "samples.png", optimize=True)
    both = torch.cat([drawn["float"][:COLUMNS], drawn["int8"][:COLUMNS]])
    enlarged(both).save(args.readme, optimize=True)


if __name__ == "__main__":
    main()
