"""One progress bar for all long work: what, how far, time left. Written to stderr, so that stdout stays clean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

Advance = Callable[[int], None]


@contextmanager
def progress(what: str, total: int | None, shown: bool = True) -> Iterator[Advance]:
    """Show a bar of `total` units; the function given advances it. `shown=False` is silent."""
    with tqdm(total=total, desc=what, disable=not shown, dynamic_ncols=True, leave=False) as bar:

        def advance(units: int = 1) -> None:
            bar.update(units)

        yield advance
