"""Draw many pictures in chunks that survive an interruption."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError, EvaluationError
from ptq4dm.files import exclusive, fingerprint, read_tensors, write_tensors
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.sampling import sample
from ptq4dm.pipelines.unconditional import config_of
from ptq4dm.progress import progress


def draw_resumable(
    network: nn.Module,
    pipeline: Pipeline,
    sampler: str,
    steps: int,
    seeds: Sequence[int],
    batch_size: int,
    folder: Path,
    identity: Any,
    shown: bool = False,
    chunk: int = 128,
) -> Tensor:
    """Pictures (n, c, h, w) in [0, 1] of `seeds`, drawn chunk by chunk into `folder`; chunks found there are read.

    identity: JSON data that says which model on which backend draws; a chunk drawn by another model, or with another
    sampler, is refused. Raises ArtifactError, EvaluationError.
    """
    config, shape = pipeline.scheduler.config, pipeline.picture_shape

    def draw(own: Sequence[int]) -> Tensor:
        return sample(network, sampler, config, shape, own, steps, batch_size, shown=False)

    def key_of(own: Sequence[int]) -> str:
        return fingerprint({}, identity, sampler, steps, list(own), config_of(pipeline.scheduler))

    return draw_chunks(draw, key_of, seeds, folder, shown, chunk)


def draw_chunks(
    draw: Callable[[Sequence[int]], Tensor],
    key_of: Callable[[Sequence[int]], str],
    seeds: Sequence[int],
    folder: Path,
    shown: bool = False,
    chunk: int = 128,
) -> Tensor:
    """`draw` of all seeds, chunk by chunk into `folder`; chunks found there are read. Raises ArtifactError.

    key_of: the fingerprint of a chunk, given its seeds: of all that its pictures depend on.
    """
    if not seeds or chunk < 1:
        raise EvaluationError(f"{len(seeds)} pictures in chunks of {chunk}: both should be at least 1")
    parts = []
    with exclusive(folder / "chunks"), progress("pictures", len(seeds), shown) as advance:
        for index, first in enumerate(range(0, len(seeds), chunk)):
            own = seeds[first : first + chunk]
            path, key = folder / f"chunk-{index:04d}.safetensors", key_of(own)
            pictures = read_chunk(path, key)
            if pictures is None:
                pictures = draw(own)
                write_tensors(path, {"pictures": pictures}, {"key": key})
            parts.append(pictures)
            advance(len(own))
    return torch.cat(parts)


def read_chunk(path: Path, key: str) -> Tensor | None:
    """The pictures of a chunk, None if it is not drawn yet or damaged. Raises ArtifactError if it is another's."""
    if not path.exists():
        return None
    try:
        tensors, metadata = read_tensors(path)
    except ArtifactError:
        return None
    if metadata.get("key") != key or "pictures" not in tensors:
        raise ArtifactError(f"{path} was drawn with another model, sampler or seeds: name a new folder or remove it")
    return tensors["pictures"]
