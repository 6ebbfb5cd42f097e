"""How the window of a convolution walks over its input."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """How a convolution's window walks; each of three axes (depth, height, width), those that it lacks with 1 tap.

    upsample: by how much height and width of the input are repeated before (nearest neighbour). behind: further
    padding at the end of each axis.
    """

    taps: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)
    padding: tuple[int, int, int] = (0, 0, 0)
    dilation: tuple[int, int, int] = (1, 1, 1)
    upsample: int = 1
    behind: tuple[int, int, int] = (0, 0, 0)

    def out_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """(depth, height, width) of the output for those of the input."""
        grown = (size[0], size[1] * self.upsample, size[2] * self.upsample)
        d, h, w = (
            (grown[axis] + 2 * self.padding[axis] + self.behind[axis] - self.dilation[axis] * (self.taps[axis] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in range(3)
        )
        return d, h, w

    @property
    def most(self) -> tuple[int, int, int]:
        """How many taps of a window can hang over an end of each axis."""
        d, h, w = (
            min(-(-(padding + behind) // dilation), taps)
            for padding, behind, dilation, taps in zip(self.padding, self.behind, self.dilation, self.taps, strict=True)
        )
        return d, h, w

    def numbers(self) -> list[int]:
        """As the operator takes it: taps, stride, padding, dilation and `behind` of each axis, then `upsample`."""
        return [*self.taps, *self.stride, *self.padding, *self.dilation, *self.behind, self.upsample]

    @property
    def pointwise(self) -> bool:
        """Whether each output is reached by its own input alone: a linear layer."""
        return self == Geometry((1, 1, 1))


def geometry_of(numbers: Sequence[int]) -> Geometry:
    """`Geometry.numbers` undone."""
    d, h, w = (tuple(numbers[axis:15:3]) for axis in range(3))
    taps, stride, padding, dilation, behind = zip(d, h, w, strict=True)
    return Geometry(taps, stride, padding, dilation, numbers[15], behind)
