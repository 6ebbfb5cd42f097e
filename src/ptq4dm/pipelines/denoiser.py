"""The noise-estimation network as the rest of the code sees it: a module and the calls made to it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """The positional and keyword arguments of one call of a network."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
