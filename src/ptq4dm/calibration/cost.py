"""What a calibration costs: rows through each denoiser, beside those of running the pipeline for the same pictures.

A row is one picture in one call; with guidance a pipeline makes two of each picture. Rows, unlike calls, are worth the
same whatever the batch, and however often a step calls the denoiser. Where a pipeline has several denoisers, a row of
each is also worth its multiply-adds: what is bounded is bounded in both.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from torch import nn

from ptq4dm.pipelines.denoiser import Call, batch_of
from ptq4dm.pipelines.denoisers import Run

SEARCH: Final = 32
"""How many calls of each denoiser are left, if smaller runs can leave them, to find its sensitive layers: two calls for
each of seven halvings. A quarter of it is the least that a search can do with."""


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


@dataclass(frozen=True)
class Cost:
    """What calibrating costs, in one unit.

    until: by visit, one picture's run that ends with it, rising; beside: what is spent beside the watched runs, once;
    search: what `SEARCH` calls of each denoiser cost.
    """

    until: Sequence[float]
    beside: float
    search: float

    def of_runs(self, last: Sequence[int], size: int) -> float:
        """Of runs of `size` pictures each that end with the last visit that one of them needs, and what is beside.

        last: the visit after which each picture is done, rising.
        """
        groups = (last[first : first + size] for first in range(0, len(last), size))
        return self.beside + sum(len(group) * self.until[group[-1]] for group in groups)


def costs_of(run: Run, beside: Mapping[str, int], macs: Mapping[str, int] | None = None) -> list[Cost]:
    """What calibrating costs in rows and, where `macs` tells those of a row of each denoiser, in multiply-adds.

    run: the first run, of one picture, which counts too; beside: the rows made besides, by denoiser. Those that `macs`
    does not tell of stay in float and are not counted.
    """
    visits = Counter(name for visit in run.visits for name in visit.called)
    units = [dict.fromkeys(visits, 1)] if macs is None else [dict.fromkeys(macs, 1), macs]

    def of_visit(unit: Mapping[str, int], called: Sequence[str]) -> float:
        return sum(unit[name] * run.rows[name] / visits[name] for name in called if name in unit)

    return [
        Cost(
            list(accumulate(of_visit(unit, visit.called) for visit in run.visits)),
            sum(unit[name] * (run.rows[name] + beside.get(name, 0)) for name in unit),
            sum(unit[name] * SEARCH * rows_of([run.examples[name]]) for name in unit),
        )
        for unit in units
    ]


def runs_within(last: Sequence[int], largest: int, costs: Sequence[Cost]) -> tuple[int, int]:
    """How many pictures at most share a run, and how many are not drawn but looked at on the run of the last of all,
    which goes by where they are needed: so that calibrating costs no more than running the pipeline for all of them.

    Runs of `largest` pictures are halved until they leave enough for the search for sensitive layers, else for a short
    one, or at least cost no more. Only where single ones do, as where hardly a step can be skipped, the last but one is
    not drawn, then the one before; two are drawn at least. (1, 0) where none of it is enough, as for one picture. last:
    the visit after which each picture is done, rising.
    """
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    for spared, searched in ((0, 1.0), (0, 0.25), *((number, 0.0) for number in range(max(1, len(last) - 1)))):
        drawn = [*last[: len(last) - 1 - spared], last[-1]]
        for size in sizes:
            if all(c.of_runs(drawn, size) + searched * c.search <= len(last) * c.until[-1] for c in costs):
                return size, spared
    return 1, 0


def calls_left(
    running: Mapping[str, int], made: Mapping[str, int], macs: Mapping[str, int], waiting: Sequence[str], rows: int
) -> int:
    """How many calls of so many rows the first of `waiting` may make.

    So many that the rows of all denoisers together stay within those of running the pipeline, and so do their
    multiply-adds; what is left until then is divided among all `waiting`, by what running each of them takes.
    running, made: rows by denoiser; macs: of a row of each.
    """
    first, allowed = waiting[0], []
    for of in (dict.fromkeys(running, 1), macs):
        left = sum(of[name] * (running[name] - made[name]) for name in running)
        share = of[first] * running[first] / max(1, sum(of[name] * running[name] for name in waiting))
        allowed.append(int(left * share / max(1, of[first] * rows)))
    return max(0, min(allowed))
