"""Weights that were rounded with error feedback, kept in the study's folder: the same layers are rounded once.

Many rows round the same: layers of time are the same in all, fewer bits of activations change no weights, and the
networks whose distances from the data are measured were made before. What was rounded is found by the fingerprint of
all that it depends on: the layers as they were (integers, scales, ranges, biases, smoothing), the calls, the recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.errors import ArtifactError
from ptq4dm.files import fingerprint, read_tensors, write_tensors
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.error_feedback import Job, round_all
from ptq4dm.quantization.input_moments import Rounded
from ptq4dm.recipe import WeightRecipe

FORMAT_VERSION: Final = 1
"""Of what is kept; that of another version is rounded again."""
ROOM: Final = 1 << 30
"""Bytes that are kept at most; what comes later is rounded whenever it is asked for."""


@dataclass(frozen=True)
class KeptRounding:
    """`round_all` for the float network of one study. model: the fingerprint of its pipeline."""

    folder: Path
    model: str

    def __call__(self, network: nn.Module, jobs: Sequence[Job], calls: Sequence[Call], shown: bool = False) -> None:
        """Round the jobs that are not kept, together; read the others."""
        places = [(self.place(layers, recipe, calls), (layers, recipe)) for layers, recipe in jobs if layers]
        missing = [(place, job) for place, job in places if not put(place, job[0])]
        if not missing:
            return
        round_all(network, [job for _, job in missing], calls, shown)
        for place, (layers, _) in missing:
            kept = rounded_tensors(layers)
            if self.used() + sum(item.nbytes for item in kept.values()) <= ROOM:
                write_tensors(place, kept)

    def place(self, layers: Mapping[str, Rounded], recipe: WeightRecipe, calls: Sequence[Call]) -> Path:
        """The file of these layers, by how they are before they are rounded."""
        before = {f"{name}.{key}": item for name, layer in layers.items() for key, item in layer.own_tensors().items()}
        leaves = pytree.tree_leaves([(call.args, call.kwargs) for call in calls])
        given = {f"call {index}": leaf for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        key = fingerprint({**before, **given}, FORMAT_VERSION, self.model, asdict(recipe), len(calls), others)
        return self.folder / f"{key}.safetensors"

    def used(self) -> int:
        """Bytes that are kept now."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))


def rounded_tensors(layers: Mapping[str, Rounded]) -> dict[str, Tensor]:
    """What rounding changes of layers."""
    weights = {f"{name}.weight": layer.weight for name, layer in layers.items()}
    biases = {f"{name}.bias": layer.bias for name, layer in layers.items() if layer.bias is not None}
    return weights | biases


def put(place: Path, layers: Mapping[str, Rounded]) -> bool:
    """Give layers what is kept of them; False if nothing is, or it is damaged."""
    try:
        kept, _ = read_tensors(place)
    except ArtifactError:
        return False
    held = rounded_tensors(layers)
    if {name: item.shape for name, item in kept.items()} != {name: item.shape for name, item in held.items()}:
        return False
    for name, item in held.items():
        item.copy_(kept[name])
    return True
