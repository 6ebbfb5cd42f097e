"""Files that are whole or absent: written under a temporary name, synced, renamed; one writer at a time."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptq4dm.errors import ArtifactError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside `target` to fill; on success it replaces `target`, on any failure it vanishes.

    Raises ArtifactError if the place cannot be written, is full, or another run is writing to it. A folder that
    stands at `target` is replaced only if it is empty or one of ours (it has `model_index.json` or `ptq4dm.json`).
    """
    target = Path(os.path.realpath(target))  # a link stays; what it points to is replaced
    with written_or_explained(target), exclusive(target):
        check_replaceable(target)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            yield building
            sync_tree(building)
            os.chmod(building, 0o755)
            put_in_place(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def put_in_place(building: Path, target: Path) -> None:
    """Rename `building` to `target`; what stood there is removed, or comes back if that fails or is interrupted."""
    old = building.with_suffix(".old")
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(building, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder with its parents. Raises ArtifactError if it is a file or cannot be made."""
    with written_or_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """Give a temporary folder in `folder` to fill; on success its files replace those of `folder`, all of them written
    and synced before the first is replaced; on any failure it vanishes."""
    make_folder(folder)
    with written_or_explained(folder):
        building = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=folder))
        try:
            yield building
            sync_tree(building)
            for path in sorted(building.iterdir()):
                os.replace(path, folder / path.name)
            sync_folder(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` to write; on success it replaces `target`, on any failure it vanishes."""
    target = Path(os.path.abspath(target))
    refuse_folder(target)
    with written_or_explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        building = Path(name)
        try:
            yield building
            with building.open("rb") as written:
                os.fsync(written.fileno())
            os.chmod(building, 0o644)
            os.replace(building, target)
        finally:
            building.unlink(missing_ok=True)


def require_writable(target: Path) -> None:
    """Raise ArtifactError if no file can be written at `target`; asked before long work, and leaves nothing behind."""
    target = Path(os.path.abspath(target))
    refuse_folder(target)
    with written_or_explained(target):
        place = next(folder for folder in target.parents if os.path.exists(folder))
        tempfile.TemporaryFile(dir=place).close()


def refuse_folder(target: Path) -> None:
    """Raise ArtifactError if a folder stands where a file is to be written."""
    if os.path.isdir(target):
        raise ArtifactError(f"cannot write {target}: it is a folder: name a file")


@contextmanager
def written_or_explained(target: Path) -> Iterator[None]:
    """Turn a failed write into one line that says why and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "the disk is full: free some space" if full else f"{error}: name a folder that you may write to"
        raise ArtifactError(f"cannot write {target}: {why}") from error


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the right to write to `target`; a second run that asks for it gets an ArtifactError at once.

    Raises ArtifactError too where nothing can be written beside `target`.
    """
    target = Path(os.path.abspath(target))
    lock = target.parent / f".{target.name}.lock"
    with written_or_explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(handle.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:  # or the run that held it ended in between, and its file is gone or already that of a third run
            raise ArtifactError(f"another run is writing to {target}: wait for it, or name another folder")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def check_replaceable(target: Path) -> None:
    """Raise ArtifactError if `target` stands and is neither an empty folder nor one that ptq4dm wrote."""
    if not target.exists():
        return
    if not target.is_dir() or (any(target.iterdir()) and not (target / "ptq4dm.json").exists()):
        raise ArtifactError(f"will not replace {target}: not empty and not written by ptq4dm; name a new folder")


def sync_tree(folder: Path) -> None:
    """Force every file below `folder` to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with new_file(path) as building:
        building.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ArtifactError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}") from error


def read_object(path: Path, mend: str) -> dict[str, Any]:
    """Read a JSON object. Raises ArtifactError that ends in `mend` if it is missing, damaged or something else."""
    try:
        values = read_json(path)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {mend}") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{path} holds a {type(values).__name__}, not a JSON object; {mend}")
    return values


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all. `metadata` must be strings."""
    with new_file(path) as building:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, building, metadata or {})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata. Raises ArtifactError if it is missing, truncated or no safetensors."""
    if not Path(path).is_file():
        raise ArtifactError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged or no safetensors file ({error}): write it again") from error


def fingerprint(tensors: dict[str, Tensor], *facts: Any) -> str:
    """SHA-256 (16 hex digits) over names, dtypes, shapes and bytes of `tensors` and the JSON of `facts`."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:16]
