"""Read a float pipeline from a folder or the hub: safetensors only, no foreign code, every fault said in one line."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import diffusers
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open

from ptq4dm.errors import ArtifactError, ModelError
from ptq4dm.files import read_object
from ptq4dm.pipelines.classes import LIBRARIES, class_of_part, find_class, is_library
from ptq4dm.registration import METHODS

INDEX: Final = "model_index.json"
HUB_SECONDS: Final = 10.0
FAULTS: Final = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RuntimeError,
    ZeroDivisionError, SafetensorError,
)  # fmt: skip
"""What diffusers raises at a damaged folder, as tried with truncated and edited files."""


def load_float_pipeline(folder: Path) -> DiffusionPipeline:
    """Load a local diffusers folder in float. Raises ModelError that names the folder, the fault and the mend.

    Every weight of every diffusers model must be in the file: a missing one is an error, not a random tensor.
    """
    index = read_index(folder)
    try:
        with quiet():
            models = {
                name: load_model(folder, name, kind)
                for name, part in index.items()
                if (kind := class_of_part(*part)) is not None and is_model(kind)
            }
            kind = find_class(read_config(folder / INDEX)["_class_name"])
            return kind.from_pretrained(str(folder), use_safetensors=True, **models)
    except FAULTS as error:
        raise ModelError(
            f"{folder} cannot be loaded: {one_line(error)}; save or download the pipeline again"
        ) from error


def is_model(kind: type) -> bool:
    """Whether a class is that of one model with a config; several ControlNets in one have none."""
    return issubclass(kind, diffusers.ModelMixin) and issubclass(kind, diffusers.ConfigMixin)


def read_index(folder: Path) -> dict[str, list[str]]:
    """The parts that a pipeline folder names: {"unet": ["diffusers", "UNet2DModel"], ...}. Raises ModelError."""
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder} is no diffusers pipeline (it has no {INDEX}): give the folder of save_pretrained()")
    refuse_quantized(folder)
    index = read_config(folder / INDEX)
    kind = find_class(index.get("_class_name"))
    if kind is None or not issubclass(kind, DiffusionPipeline):
        raise ModelError(f"{folder}: {index.get('_class_name')!r} is no pipeline of diffusers {diffusers.__version__}")
    parts = {name: part for name, part in index.items() if isinstance(part, list) and part != [None, None]}
    for name, part in parts.items():
        if len(part) != 2 or not is_library(part[0]):
            raise ModelError(f"{folder}: {name} is {part}, and only classes of {', '.join(LIBRARIES)} are loaded")
        if part[0] != "transformers" and class_of_part(*part) is None:
            raise ModelError(
                f"{folder}: {name} is a {part[1]!r}, which diffusers {diffusers.__version__} does not have"
            )
        for path in sorted((folder / name).glob("*config.json")):
            read_config(path)  # diffusers takes one that is no object for a repository of the hub
    return parts


def refuse_quantized(folder: Path) -> None:
    """Raise ModelError if the folder holds a quantized model: the float one is wanted."""
    for path in sorted(folder.glob("*/config.json")):
        settings = read_config(path).get("quantization_config")
        if settings is None:
            continue
        method = settings.get("quant_method") if isinstance(settings, dict) else settings
        if saved_by_diffusers(folder):
            raise ModelError(f"{folder} is an INT8 model that diffusers saved: open it with "
                             "DiffusionPipeline.from_pretrained after `import ptq4dm`")  # fmt: skip
        if (folder / "ptq4dm.json").exists() or method in METHODS:
            raise ModelError(f"{folder} is an INT8 model made by ptq4dm: open it with ptq4dm.load({str(folder)!r})")
        raise ModelError(f"{folder}: its {path.parent.name} is quantized already ({method}): give the float model")


def saved_by_diffusers(folder: Path) -> bool:
    """Whether `save_pretrained` wrote INT8 weights of ptq4dm into a pipeline folder: without recipe, plan and facts."""
    if (folder / "ptq4dm.json").exists():
        return False
    settings = [read_config(path).get("quantization_config") for path in sorted(folder.glob("*/config.json"))]
    return any(isinstance(item, dict) and item.get("quant_method") in METHODS for item in settings)


def read_config(path: Path) -> dict[str, Any]:
    """One JSON object of a pipeline folder. Raises ModelError."""
    try:
        return read_object(path, "save or download the pipeline again")
    except ArtifactError as error:
        raise ModelError(" ".join(str(error).split())) from error


def load_model(folder: Path, name: str, kind: Any) -> Any:
    """One model of the pipeline (old repositories keep it at the root). Raises ModelError if weights are missing."""
    place = folder / name if (folder / name).is_dir() else folder
    for path in sorted(place.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ModelError(
                f"{path} is truncated or damaged ({one_line(error)}); save or download it again"
            ) from error
    options = {"use_safetensors": True, "output_loading_info": True}  # the latter makes it a pair
    model, found = kind.from_pretrained(str(place), **options)
    for fault in ("missing_keys", "unexpected_keys"):
        if found[fault]:
            some = ", ".join(sorted(found[fault])[:3])
            raise ModelError(
                f"{place}: the weights do not fit the config ({fault.replace('_', ' ')}: {some}); "
                "save or download it again"
            )
    return model


def hub_folder(repository: str) -> Path:
    """Download a pipeline from the Hugging Face hub, or find it in the local cache. Raises ModelError in one line."""
    silence = ""
    try:
        with quiet():
            silence = why_hub_is_silent(repository)
            place = DiffusionPipeline.download(repository, use_safetensors=True, local_files_only=bool(silence))
            return Path(place)
    except RepositoryNotFoundError as error:
        raise ModelError(f"no model {repository!r}: no such folder here, and no such public hub repository") from error
    except (HfHubHTTPError, *http_faults(), *FAULTS) as error:
        reason = silence or one_line(error)
        raise ModelError(
            f"no model {repository!r}: no such folder here, not in the local cache, and the hub cannot give it "
            f"({reason}); connect to the network, or download it elsewhere and give its folder"
        ) from error


def why_hub_is_silent(repository: str, kind: str = "model") -> str:
    """Why the hub cannot be asked, "" if it can; one question with a time limit, no retries. kind: model or dataset.

    Raises RepositoryNotFoundError if the hub answers that it has no such repository.
    """
    try:
        HfApi().repo_info(repository, repo_type=kind, timeout=HUB_SECONDS)
    except RepositoryNotFoundError:
        raise
    except (HfHubHTTPError, OSError, *http_faults()) as error:
        return one_line(error)
    return ""


def http_faults() -> tuple[type[Exception], ...]:
    """What the HTTP client of the installed huggingface_hub raises (which client, depends on its version)."""
    return tuple(sys.modules[client].HTTPError for client in ("httpx", "httpx2") if client in sys.modules)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers' log lines and progress bars off the screen; our errors say what went wrong."""
    verbosity, bars = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity(logging.CRITICAL)
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(verbosity)
        if bars:
            diffusers_logging.enable_progress_bar()


def one_line(error: Exception) -> str:
    """An error's text without line breaks, at most 200 characters."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
