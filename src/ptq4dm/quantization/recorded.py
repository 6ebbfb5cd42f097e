"""What layers answered in one call, to be said again in another that is the same as far as there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

ROOM = 1 << 29
"""Bytes of answers that are kept of one call: of the layers that are called first, which are needed most often."""


@dataclass
class Recorded:
    """order: layers as they were first called. kept: answers of those called once, as far as there is room."""

    order: list[str] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def before(self, name: str) -> dict[str, Callable[[Tensor], Tensor]]:
        """Stand-ins for the layers called before `name`, which does not change what they answer: they say it again."""
        earlier = self.order[: self.order.index(name)] if name in self.order else []
        return {other: saying(self.kept[other]) for other in earlier if other in self.kept}


def saying(answer: Tensor) -> Callable[[Tensor], Tensor]:
    """A layer that says `answer` whatever it is given; each time anew, since some networks write into what they get."""
    return lambda x: answer.clone()


@contextmanager
def recording(network: nn.Module, names: Sequence[str], room: int = ROOM) -> Iterator[Recorded]:
    """While open, for one call of `network`, the answers of the layers of these names are kept."""
    recorded, free = Recorded(), room

    def hook(name: str) -> Callable[..., None]:
        def watch(module: nn.Module, args: Any, output: Tensor) -> None:
            nonlocal free
            if name in recorded.order:  # called again: which of its answers to say would be a guess
                free += recorded.kept.pop(name).nbytes if name in recorded.kept else 0
                return
            recorded.order.append(name)
            if output.nbytes <= free:
                free -= output.nbytes
                recorded.kept[name] = output.clone()

        return watch

    with ExitStack() as stack:
        for name in names:  # before hooks of others, which will see an answer that is said again too
            stack.enter_context(network.get_submodule(name).register_forward_hook(hook(name), prepend=True))
        yield recorded
