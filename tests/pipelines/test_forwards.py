"""A module's forward is another for a while, and its own again whatever happens."""

import pytest
import torch
from torch import nn

from ptq4dm.pipelines.forwards import replaced_forward


@pytest.mark.parametrize("hooked", [False, True])
def test_a_module_has_its_own_forward_again(hooked: bool) -> None:
    """With that of its class, and with one that a library has set on it, as accelerate does."""
    layer, other, x = nn.Linear(2, 2), nn.Linear(2, 2), torch.ones(1, 2)
    if hooked:
        layer.forward = lambda x: torch.full_like(x, 7.0)
    before, names = layer(x), set(vars(layer))
    with pytest.raises(KeyboardInterrupt), replaced_forward(layer, lambda x: x - 1):
        assert not layer(x).any() and other(x).shape == (1, 2)
        raise KeyboardInterrupt
    assert torch.equal(layer(x), before) and set(vars(layer)) == names


def test_one_within_another_gives_back_the_outer_one() -> None:
    layer, x = nn.Identity(), torch.ones(1)
    with replaced_forward(layer, lambda x: x + 1):
        with replaced_forward(layer, lambda x: x + 2):
            assert layer(x) == 3
        assert layer(x) == 2
    assert layer(x) == 1
