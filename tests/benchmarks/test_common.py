"""Under which instruction set a benchmark runs, and so which file its results go to."""

import argparse
import subprocess

import pytest
from common import AVX2, under_each_isa


@pytest.mark.parametrize(
    ("isa", "shell", "runs"),
    [
        ("native", {}, None),
        ("avx2", AVX2, None),
        ("native", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, [{}]),
        ("native", AVX2, [{}]),
        ("avx2", {}, [AVX2]),
        ("avx2", {**AVX2, "ONEDNN_MAX_CPU_ISA": "SSE41"}, [AVX2]),
        ("both", {}, [{}, AVX2]),
        ("both", AVX2, [{}, AVX2]),
    ],
)
def test_the_instruction_set_asked_for_is_the_one_run(monkeypatch, isa, shell, runs):
    """Whatever the shell holds the processor to; None: this process itself runs it."""
    for name in AVX2:
        monkeypatch.delenv(name, raising=False)
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    found = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, env, check: found.append({n: v for n, v in env.items() if n in AVX2})
    )
    assert under_each_isa(argparse.Namespace(isa=isa)) == (runs is not None)
    assert found == (runs or [])
