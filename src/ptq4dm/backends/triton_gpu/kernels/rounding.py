"""From float32 to the integers of `ptq4dm.numerics.quantize`, bit for bit, inside a kernel.

    q = clamp(round(x / s) + z, 0, 255) - 128

Tensor cores multiply signed bytes, so 128 is taken off both integer and zero point, which leaves q - z as it is. The
division is IEEE's own (Triton's `/` on float32 is off by up to two units). Rounding half to even is adding and taking
away 1.5 * 2**23: floats have no fraction there. The quotient is clamped to 256 first, beyond which no integer changes.
"""

import triton
import triton.language as tl

SHIFT = 128
"""What the stored integers are less than those of the definition."""


@triton.jit
def to_integers(x, step, zero_point):
    """Float32 `x` as signed bytes. step: float32; zero_point: less 128, int32; both broadcast against `x`."""
    quotient = tl.div_rn(x, step)
    quotient = tl.minimum(tl.maximum(quotient, -256.0), 256.0)
    rounded = (quotient + 12582912.0) - 12582912.0
    return tl.minimum(tl.maximum(rounded + zero_point.to(tl.float32), -128.0), 127.0).to(tl.int8)
