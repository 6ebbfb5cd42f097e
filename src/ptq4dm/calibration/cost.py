"""What a calibration costs: rows through each denoiser, beside those of running the pipeline for the same pictures.

A row is one picture in one call; with guidance a pipeline makes two of each picture. Rows, unlike calls, are worth the
same whatever the batch, and however often a step calls the denoiser.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from torch import nn

from ptq4dm.pipelines.denoiser import Call, batch_of

CHECKS: Final = 6
"""About how many calls of one picture are made beside the runs: which layers follow the time-step alone, whether
factors can be folded, how many multiply-adds there are."""


@contextmanager
def counting_rows(networks: Mapping[str, nn.Module]) -> Iterator[Counter[str]]:
    """While open, count the rows of the batches that networks are called with, by name."""
    rows: Counter[str] = Counter()

    def hook(name: str) -> Callable[..., None]:
        return lambda network, args, kwargs: rows.update({name: batch_of(args, kwargs)})

    with ExitStack() as stack:
        for name, network in networks.items():
            stack.callback(network.register_forward_pre_hook(hook(name), with_kwargs=True).remove)
        yield rows


def rows_of(calls: Sequence[Call]) -> int:
    """The most rows that one of some calls has."""
    return max(batch_of(call.args, call.kwargs) for call in calls)


def calls_left(running: int, made: int, rows: int) -> int:
    """How many calls of so many rows can be made until all rows are as many as those of running the pipeline."""
    return max(0, running - made) // rows


def batch_within(last: Sequence[int], largest: int, visits: int) -> int:
    """How many pictures at most to put in one run: `largest`, halved until the watched runs together with the first run
    and the checks step no more often than running the pipeline for every picture would.

    last: the visit after which each picture is done, rising. visits: of a whole run.
    """
    size = largest
    while size > 1 and steps_of_runs(last, size) + visits + CHECKS > len(last) * visits:
        size //= 2
    return size


def steps_of_runs(last: Sequence[int], size: int) -> int:
    """How many steps of one picture are made in runs of `size` pictures that end with the last that needs it."""
    groups = (last[first : first + size] for first in range(0, len(last), size))
    return sum(len(group) * (group[-1] + 1) for group in groups)
