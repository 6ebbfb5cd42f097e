"""The activations of the pictures that every row is compared with are computed once."""

import torch
from torch import Tensor

from ptq4dm.evaluation.features import Features, feature_distance
from ptq4dm.studies.extractor import KEPT, Remembering


class Counting:
    name = "counting"
    standard = False

    def __init__(self) -> None:
        self.seen: list[float] = []

    def layers(self, pictures: Tensor) -> list[Tensor]:
        self.seen.append(float(pictures.mean()))
        return [pictures + 0.1]

    def features(self, pictures: Tensor) -> Features:
        raise NotImplementedError


def test_those_of_the_last_batches_are_kept_and_no_more():
    inner = Counting()
    remembering = Remembering(inner)
    wanted, *others = torch.rand(5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for other in others:
        expected = feature_distance(Counting(), wanted, other)
        assert (feature_distance(remembering, wanted, other) == expected).all()
        assert len(remembering.kept) <= KEPT
    assert inner.seen == [float(item.mean()) for item in (wanted, *others)]
    feature_distance(remembering, others[0], others[1])
    assert len(inner.seen) == 7  # forgotten, and seen anew
