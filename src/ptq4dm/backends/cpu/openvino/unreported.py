"""A conversion that is not reported to OpenVINO's maker.

Unless its user has opted out, OpenVINO reports each conversion over the network: the arguments, the outcome and every
kind of operator, dozens of reports, each from a fork of the whole process (`openvino_telemetry`, `GA4Backend.send`). A
process that holds a model is slow to fork, and one that holds torch's threads had better not be.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unreported() -> Iterator[None]:
    """While open, OpenVINO sends nothing, whatever was agreed to; nothing is changed for later."""
    try:
        from openvino_telemetry.utils.sender import TelemetrySender
    except ImportError:  # OpenVINO does without it
        yield
        return
    kept = TelemetrySender.send
    TelemetrySender.send = send_nothing
    try:
        yield
    finally:
        TelemetrySender.send = kept


def send_nothing(self: Any, backend: Any, message: Any) -> None:
    """In place of `TelemetrySender.send`."""
