"""Triton's interpreter without what takes most of its time: `from interpreted import quickly_interpreted`."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def quickly_interpreted() -> Iterator[None]:
    """For whole networks: `language_in_place`, and without the check of every integer for overflow, which takes a third
    of the time. The kernels' own tests keep it."""
    from triton.runtime.interpreter import interpreter_builder as builder

    unchecked = dataclasses.replace(builder.options, sanitize_overflow=False)
    with mock.patch.object(builder, "options", unchecked), language_in_place():
        yield


@contextmanager
def language_in_place() -> Iterator[None]:
    """Functions that a kernel calls do not look through Triton's language for what is to be replaced there, which takes
    a third of the time: the kernel has done that, and for what else a module needs its first call does."""
    from triton.runtime.interpreter import InterpretedFunction

    whole, seen = InterpretedFunction.__call__, set()

    def called_by_a_kernel(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn.__module__ not in seen:
            seen.add(self.fn.__module__)
            return whole(self, *args, **kwargs)
        return self.rewrite()(*args, **kwargs)

    with mock.patch.object(InterpretedFunction, "__call__", called_by_a_kernel):
        yield
