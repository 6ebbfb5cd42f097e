"""Measured times on disk: what is damaged is measured again, and processes that write at once lose nothing."""

import json
import multiprocessing
import types
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import timings
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.backends.triton_gpu.timings import Timing, Timings
from ptq4dm.errors import BackendWarning

TILE = Settings(64, 64, 32)
GOOD = {"int8_ms": 1.0, "float_ms": 2.0, "tile": vars(TILE)}
BAD = {
    "null": {"int8_ms": None},
    "text": {"float_ms": "2.0"},
    "true": {"int8_ms": True},
    "NaN": {"int8_ms": float("nan")},
    "infinite": {"float_ms": float("inf")},
    "negative": {"float_ms": -1.0},
    "zero": {"int8_ms": 0.0},
    "of 400 digits": {"int8_ms": 10**400},
    "no rows": {"tile": {**vars(TILE), "rows": 0}},
    "half a warp": {"tile": {**vars(TILE), "warps": 0.5}},
    "unknown": {"tile": {**vars(TILE), "clusters": 2}},
    "no tile": {"tile": None},
}
ENTRIES = 60


def written(path, entries):
    path.write_text(json.dumps({"hardware": {}, "timings": entries}))
    return path


@pytest.mark.parametrize("kind", BAD)
def test_an_entry_that_is_not_valid_is_dropped_and_the_others_stay(kind, tmp_path):
    path = written(tmp_path / "times.json", {"bad": {**GOOD, **BAD[kind]}, "none": None, "list": [1], "good": GOOD})
    kept = Timings(path, {})
    assert dict(kept) == {"good": Timing(1.0, 2.0, TILE)}
    kept["new"] = Timing(3.0, 4.0, TILE)  # which writes all of them
    assert set(Timings(path, {})) == {"good", "new"}


DAMAGED = {
    "nested": "[" * 100_000,
    "many digits": '{"hardware": ' + "1" * 5000 + "}",
    "a list": "[1, 2]",
    "timings of another kind": '{"hardware": {}, "timings": 3}',
    "bytes": "\x00\ufffd",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_begun_anew(kind, tmp_path):
    path = tmp_path / "times.json"
    path.write_text(DAMAGED[kind])
    kept = Timings(path, {})
    assert not kept
    kept["new"] = Timing(3.0, 4.0, TILE)
    assert dict(Timings(path, {})) == {"new": Timing(3.0, 4.0, TILE)}


def test_without_a_home_times_stay_in_memory_and_it_is_told(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    properties = types.SimpleNamespace(name="NVIDIA H100", major=9, minor=0, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(BackendWarning, match=r"measured again next time: there is no home folder .* XDG_CACHE_HOME"):
        kept = timings.timings_of(torch.device("cpu"))
    kept["a"] = Timing(1.0, 2.0, TILE)
    assert kept.path is None and set(kept) == {"a"}


def keep_many(path, name, barrier):
    kept = Timings(path, {})
    barrier.wait()
    for index in range(ENTRIES):
        kept[f"{name} {index}"] = Timing(1.0, 2.0, TILE)


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    fork = multiprocessing.get_context("fork")
    path, barrier = tmp_path / "new" / "times.json", fork.Barrier(2)
    writers = [fork.Process(target=keep_many, args=(path, name, barrier)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert set(Timings(path, {})) == {f"{name} {index}" for name in "ab" for index in range(ENTRIES)}


def test_where_nothing_can_be_locked_times_are_kept_all_the_same(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(timings.FileLock, "acquire", refused)
    kept = Timings(tmp_path / "times.json", {})
    kept["a"] = Timing(1.0, 2.0, TILE)
    assert set(Timings(tmp_path / "times.json", {})) == {"a"}


def test_a_lock_that_is_not_let_go_of_is_waited_for_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(timings, "PATIENCE", 0.05)
    path = tmp_path / "times.json"
    with timings.alone(path):
        Timings(path, {})["a"] = Timing(1.0, 2.0, TILE)
    assert set(Timings(path, {})) == {"a"}
