"""Numbers as a person reads them."""

from collections.abc import Mapping
from typing import Any


def percent(share: float, digits: int = 3) -> str:
    """0.015 -> "1.50 %" (significant digits); from 100 % on whole ones, and 0 is "0 %"."""
    shown = f"{100 * share:#.{digits}g}".rstrip(".")
    return f"{100 * share:.0f} %" if share == 0 or "e" in shown or 100 * abs(share) >= 100 else f"{shown} %"


def decibels(value: float | None) -> str:
    """30.41 -> "30.4 dB"; None (no error at all) -> "identical"."""
    return "identical" if value is None else f"{value:.1f} dB"


def times(ratio: float) -> str:
    """2.184 -> "2.18×"; 3.9 -> "3.90×"."""
    return f"{ratio:.2f}×"


def milliseconds(seconds: float) -> str:
    """0.0553 -> "55.3 ms"; from ten seconds on in seconds."""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def duration(seconds: float) -> str:
    """512.3 -> "8 min 32 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.0f} s"


def megabytes(size: float) -> str:
    """28_812_345 -> "28.8 MB"."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def count(value: float) -> str:
    """1024 -> "1,024"."""
    return f"{value:,.0f}"


def large(value: float) -> str:
    """1.2e9 -> "1.20 G", for multiply-adds and parameters."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


def signed(value: float) -> str:
    """-0.2 -> "−0.2"; 0.09 -> "+0.09"."""
    return f"{value:+.3g}".replace("-", "−")


def plural(number: int, one: str, many: str | None = None) -> str:
    """(1, "layer") -> "1 layer"; (3, "layer") -> "3 layers"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short_name(model: str) -> str:
    """A model's name; of a folder given by its whole path only the last part."""
    return model.rstrip("/").rsplit("/", 1)[-1] or model if model.startswith(("/", ".", "~")) else model


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of (dotted key, text); empty ones say "none"."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            rows += flat(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", text_of(item)))
    return rows


def text_of(value: Any) -> str:
    """One setting as text."""
    if value is None or (not isinstance(value, bool | int | float) and not value):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(text_of(item) for item in value)
    return str(value)
