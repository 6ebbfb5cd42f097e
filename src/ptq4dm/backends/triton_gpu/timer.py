"""How long a call takes on a GPU, without what Python does between the calls."""

from collections.abc import Callable
from typing import Any, Final

import torch

ROUNDS: Final = 5
CALLS_A_GRAPH: Final = 16
WARM_UP: Final = 20.0
"""Milliseconds of work before anything is timed, in which the clocks of the card rise."""


def seconds_on_gpu(call: Callable[[int], Any], sets: int, device: torch.device) -> float:
    """Seconds of one `call(index)` on that GPU: the median of replays of a CUDA graph of calls that go through all sets
    of inputs.

    Three calls come first, so that kernels are compiled and libraries have chosen theirs.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for index in range(3):
                call(index % sets)
        torch.cuda.current_stream().wait_stream(stream)
        graph, calls = torch.cuda.CUDAGraph(), max(sets, CALLS_A_GRAPH)
        with torch.cuda.graph(graph):
            for index in range(calls):
                call(index % sets)
        spent = 0.0
        while spent < WARM_UP:
            spent += milliseconds(graph)
        taken = sorted(milliseconds(graph) for _ in range(ROUNDS))
    return taken[ROUNDS // 2] / 1000 / calls


def milliseconds(graph: torch.cuda.CUDAGraph) -> float:
    """Of one replay, by events on the current device."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    graph.replay()
    ended.record()
    ended.synchronize()
    return max(started.elapsed_time(ended), 1e-3)
