"""What the compiler makes of the kernels for cards that are not here: INT8 instructions, and nothing spilled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[3]
PROGRAM = """
import dataclasses, json
from gpu.compiled import Geometry, Settings, convolution, geglu, gelu, group_norm, layer_norm, linear, moments, quantize
three = Geometry((1, 3, 3), padding=(0, 1, 1))
print(json.dumps([dataclasses.asdict(one) for one in (
    convolution(90, Settings(128, 256, 128, 8, 4), three, True),
    convolution(80, Settings(128, 128, 128, 8, 4), three, True),
    linear(90, Settings(64, 32, 128, 4, 4)),
    group_norm(90, 8, 4, 128),
    group_norm(90, 10, 2, 128, parts=16),
    group_norm(90, 12, 2, 64, pair=True),
    layer_norm(90, 1152),
    moments(90, 10, 2, 128, 16),
    moments(90, 8, 4, 64, 16, pair=True),
    convolution(90, Settings(64, 128, 128, 4, 4, 8), three, True),
    quantize(80),
    geglu(90, 1280),
    gelu(90, 4608),
    layer_norm(80, 1280, roundings=3),
)]))
"""
ONES = """
from gpu.compiled import Geometry, Settings, convolution, geglu, gelu, group_norm, layer_norm, linear, moments, quantize
tile = Settings(16, 16, 32, 1, 1)
convolution(80, tile, Geometry((1, 3, 3), padding=(0, 1, 1)), True, ones=True)
linear(80, tile, ones=True)
group_norm(80, 1, 1, 16, ones=True)
group_norm(80, 1, 1, 16, parts=2, pair=True, ones=True)
moments(80, 1, 1, 16, 2, pair=True, ones=True)
layer_norm(80, 1, ones=True)
quantize(80, ones=True)
geglu(80, 1, ones=True)
gelu(80, 1, ones=True)
from gpu.compiled import convolution_kernel, group_norm_kernel, layer_norm_kernel, linear_kernel, quantize_kernel
kernels = (convolution_kernel, linear_kernel, group_norm_kernel, layer_norm_kernel, quantize_kernel)
print(*("+".join(one.name for one in kernel.params if one.do_not_specialize) for kernel in kernels))
"""


def test_products_run_on_int8_tensor_cores_and_nothing_spills(tmp_path):
    hopper, ampere, product, *elementwise = json.loads(printed_by(PROGRAM, tmp_path))
    assert any(word.startswith("wgmma") and word.endswith("s32.s8.s8") for word in hopper["instructions"])
    assert any(word.startswith("mma.sync") and ".s32.s8.s8.s32" in word for word in ampere["instructions"])
    for one in (hopper, ampere):
        assert one["stack"] == 0 and one["registers"] < 256
        assert "cp.async.cg.shared.global" in one["instructions"]  # 16 bytes at once, past the registers
        assert not any(word.startswith(("ld.global.b8", "ld.global.b16")) and count > 4
                       for word, count in one["instructions"].items())  # fmt: skip
    assert any(word.startswith("wgmma") for word in product["instructions"])
    assert [one["stack"] for one in (product, *elementwise)] == [0] * 12


def test_kernels_compile_where_all_their_numbers_are_1(tmp_path):
    """Triton makes a constant of an argument that is 1: one place, one channel, one group, one row."""
    kinds = printed_by(ONES, tmp_path).split()
    assert kinds == [  # and one kernel does for pictures of all sizes: no compiling anew for a size that 16 divides
        "samples_a_band+height+width+out_height+out_width", "rows_a_sample+samples_a_band",
        "places+part_size+groups+samples_a_band", "rows_a_sample+samples_a_band", "samples_a_band",
    ]  # fmt: skip


def printed_by(program, cache):
    """In a process of its own: here the kernels are made for the interpreter."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks"), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
