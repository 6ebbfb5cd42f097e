"""Whole networks in Triton's interpreter: `from interpreted import unchecked_integers`."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unchecked_integers() -> Iterator[None]:
    """Without the interpreter's check of every integer for overflow, which takes a third of its time. The kernels' own
    tests keep it."""
    from triton.runtime.interpreter import interpreter_builder

    kept = interpreter_builder.options
    interpreter_builder.options = dataclasses.replace(kept, sanitize_overflow=False)
    yield
    interpreter_builder.options = kept
