"""Results as a few lines for a terminal."""

from typing import Any


def results_text(results: dict[str, Any]) -> str:
    """The figures of results.json that a person wants first."""
    lines = [*fidelity_lines(results.get("fidelity")), *distribution_lines(results.get("distribution"))]
    size = results.get("size")
    if size:
        lines.append(f"size      {size['int8_bytes'] / 1e6:.2f} MB, {size['ratio']:.2f}x smaller than float")
    speed = results.get("speed") or {}
    lines += speed_lines(speed)
    if speed.get("sampling"):
        lines += [f"end to end, {speed['sampling']['what']}", *speed_lines(speed["sampling"])]
    return "\n".join([*lines, *[f"note: {line}" for line in results.get("notes") or []]])


def fidelity_lines(fidelity: dict[str, Any] | None) -> list[str]:
    """Call and picture level, with the floor beside each figure that has one."""
    if not fidelity:
        return []
    call, pictures = fidelity["call"], fidelity["pictures"]
    floors = fidelity.get("floors") or {}
    lines = [
        f"call      {100 * call['relative_l2_mean']:.2f} % relative L2{beside(floors, 'relative_l2_mean', 100, ' %')}, "
        f"PSNR {decibels(call['psnr_mean'])}{beside(floors, 'psnr_mean')}",
        f"pictures  PSNR {decibels(pictures['psnr_mean'])}{spread_of(pictures)}{beside(floors, 'pictures_psnr_mean')} "
        f"(n = {pictures['n']}, {fidelity['sampler']} in {fidelity['steps']} steps, {fidelity['backend']})",
    ]
    if pictures.get("perceptual_mean") is not None:
        lines.append(
            f"          {pictures['perceptual_name']} {pictures['perceptual_mean']:.4f} "
            f"(between different float pictures {pictures['perceptual_between_pictures']:.4f})"
        )
    return lines


def distribution_lines(distribution: dict[str, Any] | None) -> list[str]:
    """One line a measure: float, INT8, the difference with its interval."""
    if not distribution:
        return []
    return [
        f"data      {row['measure']}: float {row['float']:.4g}, INT8 {row['int8']:.4g}, "
        f"difference {row['difference']:+.3g} {interval_of(row)}"
        for row in distribution["rows"]
    ]


def spread_of(pictures: dict[str, Any]) -> str:
    """The interval of the mean PSNR, if there is one."""
    low, high = pictures.get("psnr_interval") or (None, None)
    return "" if low is None else f" ({decibels(low)} to {decibels(high)})"


def interval_of(row: dict[str, Any]) -> str:
    """The interval of a difference and what it can detect, or why there is none."""
    if row.get("low") is None:
        return f"(n = {row.get('n')}: too few pictures for an interval)"
    return f"[{row['low']:+.3g}, {row['high']:+.3g}], smallest detectable {row['detectable']:.2g} (n = {row['n']})"


def speed_lines(speed: dict[str, Any] | None) -> list[str]:
    """Times by engine, ratios with intervals, the predicted limit."""
    if not speed:
        return []
    lines = [
        f"speed     {row['engine']} {row['precision']}: {1000 * row['seconds_median']:.1f} ms "
        f"({1000 * row['seconds_low']:.1f} to {1000 * row['seconds_high']:.1f})"
        for row in speed["rows"]
    ]
    lines += [
        f"          INT8 {r['name']}: {r['value']:.2f}x ({r['low']:.2f} to {r['high']:.2f}, "
        f"{100 * r['confidence']:.3g} % interval)"
        for r in speed["ratios"]
    ]
    limit = speed.get("predicted_limit")
    if limit:
        lines.append(f"          predicted limit: {limit['limit']:.2f}x ({100 * limit['int8_share']:.1f} % in INT8)")
    return lines


def executed_line(executed: dict[str, Any] | None) -> str:
    """How many quantized layers an engine ran in INT8, the others by name; "" where no engine tells."""
    if not executed:
        return ""
    layers = executed["layers"]
    elsewhere = [layer["layer"] for layer in layers if not layer["int8"]]
    line = f"{executed['engine']} ran {len(layers) - len(elsewhere)} of {len(layers)} quantized layers in INT8"
    return f"{line}, not {', '.join(elsewhere)}" if elsewhere else line


def decibels(value: float | None) -> str:
    """A PSNR in words."""
    return "infinite (identical)" if value is None else f"{value:.2f} dB"


def beside(floors: dict[str, float], key: str, factor: float = 1.0, unit: str = " dB") -> str:
    """The floor of a figure in brackets, if there is one."""
    return f" (floor {factor * floors[key]:.4g}{unit})" if key in floors else ""
