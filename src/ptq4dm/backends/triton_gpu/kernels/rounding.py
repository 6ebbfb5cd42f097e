"""From float32 to the integers of `ptq4dm.numerics.quantize`, bit for bit, inside a kernel.

    q = clamp(round(x / s) + z, 0, 255) - 128

Tensor cores multiply signed bytes, so 128 is taken off both integer and zero point, which leaves q - z as it is.

The quotient is the correctly rounded one wherever that tells integers apart, as torch's division gives it, at the price
of one product and four fused ones instead of a division's slow path for each number. With y = RN(1 / s) and q one of
the two floats around x / s, RN(q + RN(x - q s) y) is RN(x / s) (Markstein, "Computation of elementary functions on the
IBM RISC System/6000 processor", 1990). RN(x y) is within two units in the last place, so a first such step makes it one
of the two floats, and the second makes it exact, for steps from 1e-30 to 1e35 and quotients that are not far below a
half. Numbers beyond 300 steps are clamped first, which changes no integer.

Rounding half to even is adding 1.5 * 2**23: floats have no fraction there, and the low byte of the sum's bits is the
integer's own.
"""

import triton
import triton.language as tl

from ptq4dm.backends.triton_gpu.kernels.launching import INTERPRETED

SHIFT = 128
"""What the stored integers are less than those of the definition."""
IN_INTERPRETER = tl.constexpr(INTERPRETED)


@triton.jit
def fused(a, b, c):
    """a b + c, rounded once. The interpreter's own `fma` rounds twice."""
    if IN_INTERPRETER:
        return (a.to(tl.float64) * b.to(tl.float64) + c.to(tl.float64)).to(tl.float32)
    else:
        return tl.fma(a, b, c)


@triton.jit
def quotient(x, step):
    """x / step, correctly rounded, for x of at most 300 steps."""
    inverse = tl.div_rn(1.0, step)
    q = x * inverse
    q = fused(fused(-q, step, x), inverse, q)
    return fused(fused(-q, step, x), inverse, q)


@triton.jit
def roundings_of(
    step, zero_point, entry, bands, channels, channel, ours, PER_CHANNEL: tl.constexpr, ROUNDINGS: tl.constexpr
):
    """(step, zero point) of each of several roundings of the same numbers, as `to_integers` takes them.

    step: (ROUNDINGS, bands) or, PER_CHANNEL, (ROUNDINGS, bands, channels). zero_point: (ROUNDINGS, bands). entry: the
    band of each sample. channel, ours: the channels of a tile, and which of them there are; broadcast against it.
    """
    found = ()
    for index in tl.static_range(ROUNDINGS):  # pyright: ignore[reportGeneralTypeIssues]
        at = index * bands + entry
        if PER_CHANNEL:
            unit = tl.load(step + at * channels + channel, mask=ours, other=1.0)
        else:
            unit = tl.load(step + at)
        found = found + ((unit, tl.load(zero_point + at).to(tl.int32)),)  # noqa: RUF005 (Triton knows no unpacking)
    return found


@triton.jit
def to_integers(x, step, zero_point):
    """Float32 `x` as signed bytes. step: float32; zero_point: less 128, int32; both broadcast against `x`."""
    x = tl.minimum(tl.maximum(x, -300.0 * step), 300.0 * step)
    low, high = (-128 - zero_point).to(tl.float32), (127 - zero_point).to(tl.float32)
    rounded = tl.minimum(tl.maximum(quotient(x, step), low), high) + 12582912.0
    return (rounded.to(tl.int32, bitcast=True) + zero_point).to(tl.int8)
