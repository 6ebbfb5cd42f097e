"""The statistics of layers as tensors for a file, and back to the bit."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ptq4dm.ranges.histograms import BINS, LayerStatistics

AS_THEY_ARE: Final = ("low", "high", "channel_sum", "channel_square", "channel_largest", "positions")
"""The tensors of a layer's statistics that are saved as they are."""


def statistics_header(item: LayerStatistics) -> dict[str, Any]:
    """What of a layer's statistics is no tensor, as plain JSON data."""
    return {"exponent": item.exponent, "first_bin": filled_bins(item.counts)[0]}


def statistics_tensors(statistics: Mapping[str, LayerStatistics]) -> dict[str, Tensor]:
    """The statistics as tensors; of the counts only the bins between the first and the last that are filled."""
    tensors = {}
    for name, item in statistics.items():
        first, last = filled_bins(item.counts)
        counts = item.counts[:, first:last]
        small = not counts.numel() or int(counts.max()) < 2**32
        tensors[f"{name}.counts"] = (counts.to(torch.uint32) if small else counts).contiguous()
        tensors[f"{name}.edges"] = torch.tensor(item.edges, dtype=torch.float64)
        for key in AS_THEY_ARE:
            tensors[f"{name}.{key}"] = getattr(item, key)
        if item.smoothing is not None:
            tensors[f"{name}.smoothing"] = item.smoothing
    return tensors


def to_statistics(name: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LayerStatistics:
    """Undo `statistics_header` and `statistics_tensors` for one layer."""
    parts = {key: tensors[f"{name}.{key}"] for key in AS_THEY_ARE}
    edges = tuple(tensors[f"{name}.edges"].tolist())
    compact = tensors[f"{name}.counts"].to(torch.int64)
    counts = torch.zeros(len(edges) - 1, BINS, dtype=torch.int64)
    counts[:, header["first_bin"] : header["first_bin"] + compact.shape[1]] = compact
    return LayerStatistics(edges, header["exponent"], counts, **parts, smoothing=tensors.get(f"{name}.smoothing"))


def filled_bins(counts: Tensor) -> tuple[int, int]:
    """First filled bin and one past the last; (0, 0) if all are empty."""
    filled = counts.sum(0).nonzero().squeeze(1)
    return (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
