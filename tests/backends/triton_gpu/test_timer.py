"""How layers are timed on a GPU, on a card that is made up: what is captured, where, and which replays count."""

from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import timer

DEVICE = torch.device("cuda", 1)


class Card:
    """A card whose clock is told how long a call takes at each replay, in milliseconds: the last number goes on."""

    def __init__(self, monkeypatch, milliseconds):
        self.milliseconds, self.now = list(milliseconds), 0.0
        self.current, self.place, self.called, self.replays = None, "here", [], []
        for name in ("device", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream("aside"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("here"))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(self))

    @contextmanager
    def device(self, device):
        self.current = device
        yield
        self.current = None

    @contextmanager
    def stream(self, stream):
        self.place = stream.name
        yield
        self.place = "here"

    @contextmanager
    def graph(self, graph):
        self.place = "graph"
        yield
        self.place = "here"

    def call(self, index):
        assert self.current == DEVICE
        self.called.append((self.place, index))

    def captured(self):
        return [index for place, index in self.called if place == "graph"]

    def replay(self):
        one = self.milliseconds.pop(0) if len(self.milliseconds) > 1 else self.milliseconds[0]
        self.replays.append(len(self.captured()) * one)
        self.now += self.replays[-1]


class Stream:
    def __init__(self, name):
        self.name, self.waited = name, []

    def wait_stream(self, other):
        assert other.name != self.name


class Graph:
    def __init__(self, card):
        self.replay = card.replay


class Event:
    def __init__(self, card):
        self.card, self.at = card, None

    def record(self):
        self.at = self.card.now

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, other):
        return other.at - self.at


@pytest.mark.parametrize("sets", [1, 3, 16, 40])
def test_a_graph_of_calls_goes_through_all_sets_after_a_few_calls_aside(monkeypatch, sets):
    card = Card(monkeypatch, [0.5])
    assert timer.seconds_on_gpu(card.call, sets, DEVICE) == pytest.approx(0.5e-3)
    assert card.called[:3] == [("aside", index % sets) for index in range(3)]
    assert card.captured() == [index % sets for index in range(max(sets, 16))] and card.current is None
    assert len(card.called) == 3 + len(card.captured())


def test_neither_a_cold_card_nor_one_slow_replay_counts(monkeypatch):
    cold, warm = [0.8, 0.4, 0.2], [0.1, 0.1, 9.0, 0.1, 0.1]  # 16 calls a replay: 12.8, 6.4 and 3.2 ms until it is warm
    card = Card(monkeypatch, cold + warm)
    assert timer.seconds_on_gpu(card.call, 2, DEVICE) == pytest.approx(0.1e-3)
    assert card.replays == pytest.approx([16 * one for one in cold + warm])


def test_a_call_that_takes_no_time_ends(monkeypatch):
    """The clock of events is coarse: the work before must not go on for ever."""
    card = Card(monkeypatch, [0.0])
    monkeypatch.setattr(timer, "WARM_UP", 0.1)
    assert 0 < timer.seconds_on_gpu(card.call, 1, DEVICE) < 1e-6
