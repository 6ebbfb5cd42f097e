"""Time-step-dependent scales: what bands of time-steps with an activation range of their own buy, at 8, 6 and 4 bits.

The weights are those of the default recipe in all rows; only scales and zero points of activations differ. Their bands
are found on the sweep, under the recipe's law. A row is compared with one band at the same bits.
"""

import copy
from collections.abc import Sequence
from typing import Any, Final

from torch import nn

from ptq4dm.calibration.time_bands import TIMESTEP
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.time_bands import set_bands
from ptq4dm.ranges.laws import band_shares
from ptq4dm.ranges.time_bands import BandedRanges, banded_ranges
from ptq4dm.studies.bits import SIMULATED, with_input_bits
from ptq4dm.studies.cases import SWEEP, Case, measure, measured_case, painter
from ptq4dm.studies.study import Study
from ptq4dm.studies.variants import FEW_BANDS, ONE_BAND

BITS: Final = (8, 6, 4)
BANDS: Final = (2, 4, 8)
QUICK_BITS: Final = (8, 4)
QUICK_BANDS: Final = (4,)


def time_scales(study: Study) -> Sequence[Case]:
    """For each number of bits a case with one band, and one for each number of bands."""
    asked = QUICK_BITS if study.settings.quick else BITS
    return [case for input_bits in asked for case in cases_of(study, input_bits)]


def cases_of(study: Study, input_bits: int) -> list[Case]:
    """The cases of one number of bits, the others compared with the first."""
    one = measured_case(
        study,
        "time_scales",
        f"A{input_bits}, {ONE_BAND}",
        identity_of(study, input_bits),
        lambda: one_band(study, input_bits),
        note="" if input_bits == 8 else SIMULATED,
        shared=lambda: study.default_network,
    )
    numbers = QUICK_BANDS if study.settings.quick else BANDS
    cases = [banded_case(study, input_bits, bands, one) for bands in numbers]
    if not study.settings.quick:
        cases.append(banded_case(study, input_bits, max(BANDS), one, study.recipe.activations.band_gain))
    return [one, *cases]


def identity_of(study: Study, input_bits: int) -> dict[str, Any]:
    """What a row with one band depends on: at 8 bits it is the default recipe's own."""
    identity = {"recipe": study.recipe.to_dict(), "calibration": SWEEP}
    return identity if input_bits == 8 else {**identity, "input_bits": input_bits}


def one_band(study: Study, input_bits: int) -> nn.Module:
    """The default network with one range a layer, for inputs of so many bits."""
    network = copy.deepcopy(study.default_network)
    return with_input_bits(network, study.default_statistics, study.recipe.ranges, input_bits)


def banded_case(study: Study, input_bits: int, bands: int, one: Case, gain: float = 1.0) -> Case:
    """The case of one number of bits and of at most so many bands, as few as bring the share `gain` of what they bring
    to the error of the rounding."""

    def build() -> tuple[nn.Module, BandedRanges | None]:
        network = one_band(study, input_bits)
        return network, put_time_bands(study, network, input_bits, bands, gain)

    def run() -> dict[str, Any]:
        network, found = build()
        facts = {} if found is None else {"cuts": list(found.cuts), "loss": list(found.loss)}
        return {**measure(study, network, study.trajectories), "time_bands": facts}

    identity = {**identity_of(study, input_bits), "time_bands": bands} | ({} if gain == 1 else {"band_gain": gain})
    note = "" if input_bits == 8 else SIMULATED
    few = "" if gain == 1 else f", {FEW_BANDS} {gain:.0%} of what {bands} bring"
    name = f"A{input_bits}{few}" if few else f"A{input_bits}, {bands} bands"
    return Case(
        "time_scales",
        name,
        identity,
        run,
        study.trajectories,
        one,
        note,
        lambda: painter(study, build()[0], study.trajectories),
        lambda: study.default_network,
    )


def put_time_bands(
    study: Study, network: nn.Module, input_bits: int, bands: int, gain: float = 1.0
) -> BandedRanges | None:
    """Give a network of our own bands of time-steps by the sweep, and a range for each."""
    own, sweep = study.recipe.calibration, study.sweep
    shares = band_shares(
        study.shares_of(own.timesteps, own.law_options, study.pool.timesteps), sweep.visited, sweep.edges
    )
    layers = {name for name, layer in network.named_modules() if isinstance(layer, QuantizedLayer)}
    statistics = {name: item for name, item in sweep.statistics.items() if name in layers}
    found = banded_ranges(statistics, study.recipe.ranges, bands, gain, shares, 2**input_bits - 1, study.shown)
    if found is not None:
        set_bands(network, TIMESTEP, found.cuts, found.ranges)
    return found
