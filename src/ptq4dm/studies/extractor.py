"""What the pictures of a study are seen through: the offline extractor, where it is installed."""

from ptq4dm.errors import MissingDependencyError
from ptq4dm.evaluation.features import Extractor, make_extractor

SEEN = (1, 3)
"""Channels of pictures that an extractor takes."""


def find_extractor(channels: int) -> tuple[Extractor | None, str]:
    """The extractor for pictures of so many channels; else None, and why."""
    if channels not in SEEN:
        return None, f"the extractor sees pictures of 1 or 3 channels, and these have {channels}"
    try:
        return make_extractor(), ""
    except MissingDependencyError as error:
        return None, str(error)
