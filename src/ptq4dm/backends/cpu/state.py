"""What a network holds beside its weights and can be told after it was compiled: a graph has it baked in.

diffusers changes a network in place: `set_ip_adapter_scale`, `set_attn_processor`, `enable_freeu`. A graph is compiled
for one `settings_of` its network; with others it would draw the wrong picture without a word.
"""

import numbers
from collections.abc import Hashable
from typing import Any

from torch import nn

FREEU = ("s1", "s2", "b1", "b2")
"""Where diffusers writes the factors of FreeU, on the blocks of the way up."""


def settings_of(network: nn.Module) -> Hashable:
    """The attention processors of a network, by class and plain attributes, and its factors of FreeU."""
    found = []
    for name, module in network.named_modules():
        own = vars(module)
        processor = own.get("processor", own["_modules"].get("processor"))
        if processor is not None:
            found.append((name, type(processor), plain_attributes(processor)))
        factors = tuple(repr(own.get(factor)) for factor in FREEU)
        if any(factor != "None" for factor in factors):
            found.append((name, factors))
    return tuple(found)


def plain_attributes(thing: Any) -> tuple[tuple[str, str], ...]:
    """The attributes of an object that are numbers, truth values, names or lists of such."""
    own = getattr(thing, "__dict__", {})
    return tuple((name, repr(value)) for name, value in own.items() if is_plain(value))


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a truth value, a name, None, or a list or tuple of such."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, numbers.Real | str)
