"""Calibration conditions from the columns of a Hugging Face dataset: of the hub, of a local folder, or a file."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from ptq4dm.errors import CalibrationError, MissingDependencyError
from ptq4dm.pipelines.conditions import Condition
from ptq4dm.pipelines.loading import FAULTS, http_faults, one_line, why_hub_is_silent

INSTALL: Final = "datasets is not installed: pip install 'ptq4dm[datasets]'"
FORMATS: Final = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
DEFAULT_SPLIT: Final = "train"
SAVED: Final = ("dataset_info.json", "dataset_dict.json")
"""What `save_to_disk` writes."""


def dataset_conditions(
    dataset: Any, columns: str | Mapping[str, str], split: str = DEFAULT_SPLIT, count: int = 1024
) -> Sequence[Condition]:
    """What to call a pipeline with: columns of a dataset, a row a picture, read when its condition is asked for.

    Args:
        dataset: a `datasets.Dataset` or `DatasetDict`, or the place of one: a hub id, a local folder (of parquet, csv,
            json or image files, or of `save_to_disk`), or a file of one of those kinds.
        columns: the column that holds prompts, or arguments of the pipeline with their columns, such as
            `{"prompt": "caption", "image": "photo"}`.
        split: which part, such as "train", "train[:1000]", "train[:10%]" or "train+test". A `datasets.Dataset` has one
            part, called "train" or by its own `split`.
        count: at most so many rows, evenly over the dataset.

    Raises:
        MissingDependencyError: without the package datasets. CalibrationError: no such dataset, split, column or row.
    """
    if not isinstance(columns, str | Mapping):
        raise CalibrationError(
            f"columns = {columns!r:.60}: give the name of the column that holds prompts, or arguments of the pipeline "
            "with their columns, such as {'prompt': 'caption'}"
        )
    rows = rows_of(dataset, split)
    wanted = {"prompt": columns} if isinstance(columns, str) else dict(columns)
    for column in wanted.values():
        if column not in rows.column_names:
            raise CalibrationError(f"the dataset has no column {column!r}: it has {', '.join(rows.column_names)}")
    if not len(rows):
        raise CalibrationError(f"the split {split!r} of the dataset has no rows: name another one")
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int).tolist()
    return DatasetRows(rows.select_columns(list(wanted.values())).select(chosen), wanted)


@dataclass(frozen=True)
class DatasetRows(Sequence[Condition]):
    """Conditions of the rows of a `datasets.Dataset`. columns: which column each argument is of."""

    rows: Any
    columns: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row = self.rows[index]
        return {name: checked(name, column, row[column], index) for name, column in self.columns.items()}


def checked(name: str, column: str, value: Any, index: int) -> Any:
    """A value of a row as a pipeline takes it, images in RGB. Raises CalibrationError: a prompt that is no text."""
    if name.startswith(("prompt", "negative_prompt")) and not isinstance(value, str):
        raise CalibrationError(f"row {index} of the column {column!r} is {value!r:.60}: a {name} should be text")
    return value.convert("RGB") if isinstance(value, Image.Image) else value


def rows_of(dataset: Any, split: str) -> Any:
    """A `datasets.Dataset` of what was given. Raises MissingDependencyError, CalibrationError."""
    datasets = imported()
    if isinstance(dataset, str | Path):
        found = opened(str(dataset), split)
        if not saved_whole(dataset):
            return found
    else:
        found = dataset
    if isinstance(found, datasets.DatasetDict):
        return part_of(found, split, ", ".join(found))
    if not isinstance(found, datasets.Dataset):
        raise CalibrationError(
            f"a {type(found).__name__} is no dataset: give a datasets.Dataset, a hub id, a folder or a file"
        )
    own = str(found.split or DEFAULT_SPLIT)
    return part_of({DEFAULT_SPLIT: found, own: found}, split, own)


def part_of(parts: Mapping[str, Any], split: str, known: str) -> Any:
    """The rows of a split, of a slice of one, or of several joined by +, as `datasets` writes them.

    parts: whole splits by name; known: which to name in an error. Raises CalibrationError: there is no such part.
    """
    datasets = imported()
    if split in parts:
        return parts[split]
    sizes = {name: len(rows) for name, rows in parts.items()}
    try:
        slices = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
        chosen = [parts[item.splitname].select(range(item.from_, item.to) or range(0)) for item in slices]
        return datasets.concatenate_datasets(chosen)
    except ValueError as error:
        raise CalibrationError(
            f"the dataset has no split {split!r}: it has {known}, of which slices such as {known.split(', ')[0]}[:100] "
            "can be taken"
        ) from error


def opened(place: str, split: str) -> Any:
    """The dataset at a place. Raises CalibrationError in one line, at once where the hub cannot be reached."""
    datasets, path = imported(), Path(place).expanduser()
    try:
        with quiet(datasets):
            if not os.path.exists(path):
                silence = why_hub_is_silent(place, "dataset")
                if silence and not datasets.config.HF_HUB_OFFLINE:
                    raise ConnectionError(f"{silence}; HF_HUB_OFFLINE=1 looks in the local cache only")
            elif saved_whole(path):
                return datasets.load_from_disk(str(path))
            elif path.is_file() and path.suffix.lower() in FORMATS:
                return datasets.load_dataset(FORMATS[path.suffix.lower()], data_files=str(path), split=split)
            return datasets.load_dataset(str(path), split=split)
    except (HfHubHTTPError, *http_faults(), *FAULTS, datasets.exceptions.DatasetsError) as error:
        raise CalibrationError(
            f"no dataset {place!r} with a split {split!r} ({one_line(error)}): give a hub id, a folder of "
            f"{', '.join(FORMATS)} or image files, one that save_to_disk wrote, or a file"
        ) from error


def saved_whole(place: str | Path) -> bool:
    """Whether `save_to_disk` wrote what lies at a place: it is read whole, the split is taken afterwards."""
    folder = Path(place).expanduser()
    return any(os.path.isfile(folder / name) for name in SAVED)


@contextmanager
def quiet(datasets: Any) -> Iterator[None]:
    """Keep the package's log lines and progress bars off the screen; our errors say what went wrong."""
    verbosity, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


def imported() -> Any:
    """The package datasets. Raises MissingDependencyError with the pip line."""
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(INSTALL) from error
    return datasets
