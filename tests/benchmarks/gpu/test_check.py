"""The checks of kernels: each a row, and what is wrong is found."""

import json

import pytest
import torch

pytest.importorskip("triton")


def test_every_check_is_a_row_of_its_own_that_is_not_checked_again(run, capsys, tmp_path):
    assert run("check.py", "--deadline", "0") == 3  # out of time
    assert run("check.py", "--smoke") == 0
    assert capsys.readouterr().out.endswith("8 checks are right on cpu\n")
    path = tmp_path / "check-rehearsal.json"
    asked = set(json.loads(path.read_text())["rows"])
    assert run("check.py") == 0
    printed, rows = capsys.readouterr().out, json.loads(path.read_text())["rows"]
    assert all(row["off"] == 0 for row in rows.values())
    assert len(printed.splitlines()) == len(rows) - len(asked) + 1
    assert not any(f"  {name}\n" in printed for name in asked)
    for word in ("in bfloat16", "strewn", "dilated", "1d", "3d", "several bands", "3 splits"):
        assert any(word in name for name in rows)


def test_the_check_finds_a_kernel_that_is_wrong(run, monkeypatch, capsys):
    from ptq4dm.backends.triton_gpu import packing

    right = packing.tap_sums
    monkeypatch.setattr(packing, "tap_sums", lambda *arguments: right(*arguments) + 1)
    assert run("check.py", "--smoke").endswith("2 checks of kernels failed on cpu")
    printed = capsys.readouterr().out
    assert "WRONG (off by 128)  convolution 17 channels (5, 3) k3 zero point -128\n" in printed
    assert "convolution k3 with the tile 16x16x32, 4 warps, 3 stages\n" in printed
    monkeypatch.setattr(packing, "tap_sums", lambda *arguments: 1 / 0)
    said = run("check.py", "--smoke", "--again")  # and the others are looked at
    assert "CRASHED (ZeroDivisionError: division by zero)  convolution k3 with the tile" in said
    assert capsys.readouterr().out.count("right  ") == 6


def test_a_tile_that_a_card_has_no_room_for_is_not_wrong(module):
    from triton.runtime.errors import OutOfResources

    def too_large(device):
        raise OutOfResources(300, 200, "shared memory")

    check = module("check")
    row = check.checked(too_large, torch.device("cpu"))
    assert list(row) == ["left_out"] and check.said(row).startswith("left out (OutOfResources")
    assert check.checked(lambda device: float("inf"), torch.device("cpu")) == {"wrong": float("inf")}
