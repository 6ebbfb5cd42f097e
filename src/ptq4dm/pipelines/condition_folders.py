"""Calibration conditions from folders: images and masks, with prompts beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Final

import numpy as np
from diffusers import DiffusionPipeline, ModelMixin
from PIL import Image, ImageOps, UnidentifiedImageError

from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.conditions import Combined, Condition, accepted_arguments, default_conditions
from ptq4dm.pipelines.picture_folder import SUFFIXES
from ptq4dm.pipelines.unconditional import config_of, is_picture_size

IMAGES: Final = ("image", "control_image")
"""The arguments by which pipelines take a picture that they start from, paint in or follow; both where both are."""
MASKS: Final = ("mask_image", "mask")
ADAPTER: Final = "ip_adapter_image"


def folder_conditions(
    source: DiffusionPipeline,
    images: str | Path,
    masks: str | Path | None = None,
    *,
    prompts: Sequence[Condition] | None = None,
    size: tuple[int, int] | None = None,
    count: int = 1024,
) -> Sequence[Condition]:
    """What to call a pipeline with: the images of a folder in turn, with their masks and with prompts.

    A file is read when its condition is asked for, so memory does not grow with the folder.

    Args:
        source: the pipeline; its arguments say where a picture goes (`image`, `control_image`, `ip_adapter_image`).
        images: the folder. masks: another, with a mask for each image, of the same name but for the suffix.
        prompts: other conditions to combine with, taken in turn; left out: what the pipeline is calibrated with where
            nothing is said (the package's own prompts, if it takes prompts).
        size: (width, height) to draw; left out: what the pipeline draws by default. Pictures are cropped around their
            centre and resized to it.
        count: at most so many images, evenly over the folder.

    Raises:
        CalibrationError: no such folder, no image in it, an image without its mask, a pipeline that takes none.
    """
    paths = picture_files(images)
    held = {name: paths for name in image_arguments(source)}
    if masks is not None:
        held[mask_argument(source)] = masks_of(paths, Path(masks))
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int).tolist()
    drawn = dict(zip(("width", "height"), size or (), strict=False))
    pictures = FolderPictures(
        tuple({name: files[index] for name, files in held.items()} for index in chosen),
        size or default_size(source) or read_image(paths[0], "RGB").size,
        {name: side for name, side in drawn.items() if name in accepted_arguments(source)},
        adapters(source),
    )
    return Combined((default_conditions(source) if prompts is None else prompts, pictures))


@dataclass(frozen=True)
class FolderPictures(Sequence[Condition]):
    """Conditions of image files, read when they are asked for.

    files: for each picture the file of each argument. size: (width, height). fixed: arguments that are the same for
    all. adapters: how many IP-Adapters want a picture each.
    """

    files: tuple[dict[str, Path], ...]
    size: tuple[int, int]
    fixed: dict[str, int]
    adapters: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        return {name: self.value(name, path) for name, path in self.files[index].items()} | self.fixed

    def value(self, name: str, path: Path) -> Any:
        """What the pipeline gets for one argument. Raises CalibrationError."""
        if name in MASKS:
            return ImageOps.fit(read_image(path, "L"), self.size, Image.Resampling.NEAREST)
        picture = ImageOps.fit(read_image(path, "RGB"), self.size, Image.Resampling.LANCZOS)
        return [picture] * self.adapters if name == ADAPTER else picture


def image_arguments(source: DiffusionPipeline) -> tuple[str, ...]:
    """The arguments of a pipeline that pictures go to. Raises CalibrationError: it has none."""
    accepted = accepted_arguments(source)
    found = tuple(name for name in IMAGES if name in accepted)
    if ADAPTER in accepted and adapters(source):
        found += (ADAPTER,)
    if not found:
        hint = "; load an IP-Adapter first" if ADAPTER in accepted else ""
        raise CalibrationError(f"{type(source).__name__} takes no images: leave them out{hint}")
    return found


def mask_argument(source: DiffusionPipeline) -> str:
    """The argument of a pipeline that masks go to. Raises CalibrationError: it has none."""
    found = [name for name in MASKS if name in accepted_arguments(source)]
    if not found:
        raise CalibrationError(f"{type(source).__name__} takes no masks: leave them out, or use an inpainting pipeline")
    return found[0]


def adapters(source: DiffusionPipeline) -> int:
    """How many IP-Adapters are loaded."""
    projections = [getattr(part, "encoder_hid_proj", None) for part in source.components.values()]
    layers = [getattr(projection, "image_projection_layers", None) for projection in projections]
    return max((len(found) for found in layers if found is not None), default=0)


def default_size(source: DiffusionPipeline) -> tuple[int, int] | None:
    """(width, height) that a pipeline draws when it is not told: by its signature, or by its denoiser's config and the
    factor of its VAE; None if neither says."""
    known = signature(type(source).__call__).parameters
    told = [known[side].default for side in ("width", "height") if side in known]
    if len(told) == 2 and all(isinstance(side, int) for side in told):
        return told[0], told[1]
    sizes = [getattr(source, "default_sample_size", None)]
    for part in source.components.values():
        if isinstance(part, ModelMixin) and getattr(part, "decode", None) is None:
            sizes.append(config_of(part).get("sample_size"))
    size = next((found for found in sizes if is_picture_size(found)), None)
    factor = getattr(source, "vae_scale_factor", None)
    if size is None or not isinstance(factor, int):
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return width * factor, height * factor


def picture_files(folder: str | Path) -> list[Path]:
    """The image files of a folder in the order of their names. Raises CalibrationError: none."""
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in SUFFIXES) if Path(folder).is_dir() else []
    if not paths:
        raise CalibrationError(f"{folder} is no folder with image files ({', '.join(SUFFIXES)})")
    return paths


def masks_of(images: Sequence[Path], folder: Path) -> list[Path]:
    """The mask of each image: the file of the same name but for the suffix. Raises CalibrationError."""
    masks = by_name(picture_files(folder))
    wanted = by_name(images)
    missing, unused = sorted(wanted.keys() - masks.keys()), sorted(masks.keys() - wanted.keys())
    if missing:
        raise CalibrationError(
            f"{len(missing)} of {len(wanted)} images have no mask in {folder}: {wanted[missing[0]].name} wants a file "
            f"{missing[0]}.png or of another suffix"
        )
    if unused:
        raise CalibrationError(f"{masks[unused[0]]} is the mask of no image: name masks as their images, or remove it")
    return [masks[path.stem] for path in images]


def by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by name without suffix. Raises CalibrationError: two of one name."""
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise CalibrationError(f"{found[path.stem]} and {path.name} have one name, so masks cannot be told: rename")
        found[path.stem] = path
    return found


def read_image(path: Path, mode: str) -> Image.Image:
    """One image file, upright, in the mode "RGB" or "L". Raises CalibrationError."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert(mode)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise CalibrationError(f"{path} cannot be read as a picture ({error}): mend or remove it") from error
