"""Everything, piece by piece: the order, what is missing, what is begun again."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_all_pieces_are_there_in_the_order_of_what_they_tell(everything):
    lines = [" ".join(piece) for piece in everything.pieces(rehearse=False)]
    unets, pair = ("ddpm-cifar10", "imagenet64", "sd15"), "--contenders FP16 compiled INT8 (strict)"
    first = [f"bench_network.py {name} {pair}" for name in unets]
    then = [f"bench_network.py {name} --mode {mode}" for mode in ("reduce-overhead", "max-autotune") for name in unets]
    assert lines[:10] == ["check.py --smoke", *first, *then] and len(lines) == len(set(lines))
    assert lines[10].startswith("bench_network.py dit-xl") and lines[12:14] == ["check.py", "bench_kernels.py"]
    for name, default in (("ddpm-cifar10", 256), ("imagenet64", 128), ("sd15", 8)):
        for batch in {1, 2, 4, 8, 64, 256} - {default}:
            assert any(line.startswith(f"bench_network.py {name} --batch {batch} ") for line in lines[14:])
    assert everything.PIECE + everything.GRACE < 600


def test_what_is_not_installed_is_said_last_and_is_no_success(everything, capsys):
    assert everything.told([], [], set()) == 0
    assert everything.told([], [], {"torchao", "optimum-quanto"}) == 1
    assert capsys.readouterr().out.endswith("baseline (d) is missing: pip install torchao\n")
    assert everything.told([], ["a.py"], set()) == 1 and everything.told(["b.py"], ["a.py"], {"torchao"}) == 3


def test_a_piece_is_begun_again_until_it_is_done(everything, monkeypatch):
    answers, asked = [3, subprocess.TimeoutExpired("", 1), 0, 3, 1], []

    def answer(command, timeout):
        asked.append(Path(command[1]).name)
        status = answers[len(asked) - 1]
        if isinstance(status, Exception):
            raise status
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(sys, "argv", ["all.py", "--rehearse"])
    monkeypatch.setattr(everything, "done", lambda piece, args: piece == ["done.py"])
    monkeypatch.setattr(everything, "failures_of", lambda piece, args: {})
    monkeypatch.setattr(everything, "pieces", lambda rehearse: [["a.py"], ["done.py"], ["b.py", "c"]])
    with pytest.raises(SystemExit, match="1"):
        everything.main()
    assert asked == ["a.py"] * 3 + ["b.py"] * 2
    answers[:] = [1]
    asked.clear()
    monkeypatch.setattr(everything, "pieces", lambda rehearse: [["check.py", "--smoke"], ["a.py"]])
    with pytest.raises(SystemExit, match="the kernels are wrong here"):
        everything.main()
    assert asked == ["check.py"]
