"""What the pictures of a study are seen through: the offline extractor, where it is installed."""

from dataclasses import dataclass, field

from torch import Tensor

from ptq4dm.errors import MissingDependencyError
from ptq4dm.evaluation.features import Extractor, Features, make_extractor
from ptq4dm.files import fingerprint

SEEN = (1, 3)
"""Channels of pictures that an extractor takes."""
KEPT = 2
"""Batches whose activations are kept: those of the float pictures, which each row is compared with, and the last."""


@dataclass(frozen=True)
class Remembering:
    """An extractor that keeps the activations of the batches that it was last shown."""

    of: Extractor
    kept: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """That of the extractor."""
        return self.of.name

    @property
    def standard(self) -> bool:
        """As the extractor."""
        return self.of.standard

    def features(self, pictures: Tensor) -> Features:
        """As the extractor."""
        return self.of.features(pictures)

    def layers(self, pictures: Tensor) -> list[Tensor]:
        """As the extractor, not computed again for the last few batches."""
        key = fingerprint({"pictures": pictures})
        found = self.kept.pop(key, None)
        self.kept[key] = self.of.layers(pictures) if found is None else found
        if len(self.kept) > KEPT:
            del self.kept[next(iter(self.kept))]
        return self.kept[key]


def find_extractor(channels: int) -> tuple[Extractor | None, str]:
    """The extractor for pictures of so many channels; else None, and why."""
    if channels not in SEEN:
        return None, f"the extractor sees pictures of 1 or 3 channels, and these have {channels}"
    try:
        return Remembering(make_extractor()), ""
    except MissingDependencyError as error:
        return None, str(error)
